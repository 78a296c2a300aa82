"""Measured figures for prose: ``{{ glyphs["twn"].lost }}`` on a page becomes what the files of the measurement say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sitetools.links import ROOT

RESULTS = ROOT / "benchmarks" / "methods" / "results"


def figures() -> dict[str, Any]:
    """Every figure that pages may name, as text.

    Returns:
        ``glyphs`` and ``glyphs_longer``: by recipe its ``accuracy`` and ``zeros`` in per cent, the points that it
        ``lost`` to float and the ``size`` in kB, from the comparison on drawn characters with two epochs and with
        eight. ``zen4``: by network, kind of library and engine, how many times as fast the library is, on one thread.
        ``digits``: the accuracy of the float network of ``make demo`` and the share of one image in per cent.
    """
    run = json.loads((ROOT / "benchmarks" / "measured" / "digits.json").read_text())
    return {
        "glyphs": _recipes("glyphs-resnet20-s2"),
        "glyphs_longer": _recipes("8-epochs/glyphs-resnet20-s2"),
        "zen4": _ratios("zen4"),
        "digits": {
            "float": f"{100 * run['accuracy']['float']:.2f} %",
            "images": str(run["images"]),
            "one": f"{100 / run['images']:.2f}",
        },
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
