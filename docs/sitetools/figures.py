"""Measured figures for prose, which :mod:`.fill` puts into documents: what the files of the measurements say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measured_pages import zeros_of
from sitetools.links import ROOT

RESULTS = ROOT / "benchmarks" / "methods" / "results"
MEASURED = ROOT / "benchmarks" / "measured"


def figures() -> dict[str, Any]:
    """Every figure that pages may name, as text.

    Returns:
        ``glyphs`` and ``glyphs_longer``: by recipe its ``accuracy`` and ``zeros`` in per cent, the points that it
        ``lost`` to float and the ``size`` in kB, from the comparison on drawn characters with two epochs and with
        eight. ``fashion``: the same of the comparison on Fashion-MNIST. ``zen4``: by network, kind of library and
        engine, how many times as fast the library is, on one thread. ``digits``: the accuracy of the float network of
        ``make demo`` and the share of one image in per cent. ``shared``: how many times as fast layers whose zeros are
        shared are, see :func:`_shared`. ``sizes``: installed packages in MB, programs for boards without Python in KB,
        a ResNet-20 as C in KB.
    """
    run = json.loads((MEASURED / "digits.json").read_text())
    return {
        "glyphs": _recipes("glyphs-resnet20-s2"),
        "glyphs_longer": _recipes("8-epochs/glyphs-resnet20-s2"),
        "fashion": _recipes("fashion-mnist-resnet20-s2"),
        "zen4": _ratios("zen4"),
        "digits": {
            "float": f"{100 * run['accuracy']['float']:.2f} %",
            "images": str(run["images"]),
            "one": f"{100 / run['images']:.2f}",
            "zeros": f"{100 * zeros_of(run):.0f} %",
        },
        "shared": _shared(json.loads((MEASURED / "shared-zeros.json").read_text())["rows"]),
        "sizes": _sizes(json.loads((MEASURED / "sizes.json").read_text())),
    }


def _recipes(name: str) -> dict[str, Mapping[str, str]]:
    rows = json.loads((RESULTS / name / "summary.json").read_text())["rows"]
    return {row["name"]: _recipe(row) for row in rows}


def _recipe(row: Mapping[str, Any]) -> dict[str, str]:
    found = {"accuracy": f"{row['accuracy']:.2f} %", "lost": f"{row['lost']:.2f}"}
    if row["sparsity"] is not None:
        found["zeros"] = f"{100 * row['sparsity']:.0f} %"
    if row["size"] is not None:
        found["size"] = f"{row['size'] / 1000:.1f}"
    return found


def _shared(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Ratios of all layers in words, ``single`` and ``onnxruntime`` over ours, by kind: ``80 by 4`` and the like.

    With float inputs ``floats 80 by 4``.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        name = f"{'floats ' if row['inputs'] == 'f32' else ''}{100 * row['zeros']:.0f} by {row['group']}"
        kind = found.setdefault(name, {"single": [], "onnxruntime": []})
        for peer, ratios in kind.items():
            ratios.append(row[f"{peer}_us"] / row["shared_us"])
    return {
        kind: {
            peer: f"{', '.join(f'{one:.1f}' for one in ratios[:-1])} and {ratios[-1]:.1f}"
            for peer, ratios in peers.items()
        }
        for kind, peers in found.items()
    }


def _sizes(data: Mapping[str, Any]) -> dict[str, str]:
    libraries = sum(size for name, size in data["programs"].items() if name.startswith("lib"))
    packages = {name: f"{one['bytes'] / 1e6:.0f} MB" for name, one in data["installed"].items()}
    programs = {name: f"{size / 1000:.0f} KB" for name, size in data["programs"].items()}
    network = {part: f"{data['c'][part] / 1000:.0f} KB" for part in ("flash", "ram")}
    return {**packages, **programs, **network, "runtime": f"{libraries / 1e6:.1f} MB"}


def _ratios(machine: str) -> dict[str, dict[str, dict[str, str]]]:
    entries = json.loads((ROOT / "benchmarks" / f"baseline-{machine}.json").read_text())["entries"]
    return {
        case.removesuffix("/1"): {
            ours: {peer: f"{found['ratio']:.2f}" for peer, found in row["peers"].items()}
            for ours, row in entry["ratios"].items()
        }
        for case, entry in entries.items()
        if case.endswith("/1")
    }
