"""``python -m benchmarks.estimate``: estimates beside measured latency and bytes, for networks of no profile table.

The estimates are made first. Then every network is compiled and measured with one thread in turns; of a network the
smallest of the rounds' lower quartiles counts, as in profile tables: what other processes take is not in it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import tvm_schedules
from benchmarks.latency import measure, quickest
from tvm_schedules.artifact import store
from tvm_schedules.backends.cpu.files import LIBRARY
from tvm_schedules.bench import networks
from tvm_schedules.bench.machines import ThisMachine
from tvm_schedules.common.files import temporary_folder, user_path, write_file
from tvm_schedules.estimate.estimate import TargetEstimate, estimate

SUITE = (
    ("resnet20", 0.8, "uint8"),
    ("resnet20", 0.5, "uint8"),
    ("resnet20", 0.9, "float32"),
    ("resnet20", 0.95, "uint8"),
    ("resnet56", 0.8, "uint8"),
    ("resnet56", 0.9, "float32"),
    ("mlp", 0.8, "uint8"),
    ("mlp", 0.9, "float32"),
    ("mobilenetv2", 0.8, "uint8"),
)
"""Networks of ``tern-bench --suite``: name, share of zeros, activations."""

ZOO = ("resnet8", "mobilenet_v1_025", "ds_cnn", "autoencoder", "encoder_pre_norm")
"""Networks of ``tests/zoo``, with 80 % zeros and 8-bit activations."""

APART = 0.1
"""Pairs whose latencies differ by as much should be ordered right."""


def models(folder: Path) -> Iterator[tuple[str, Any]]:
    """Name and ONNX of every network."""
    for name, zeros, activations in SUITE:
        floats = " float32" if activations == "float32" else ""
        yield f"{name} {zeros:.0%}{floats}", networks.build(name, zeros, activations)
    import tern_lightning
    from tests.zoo.registry import build

    for name in ZOO:
        example = build(name)
        samples = tuple(array.numpy() for array in example.inputs)
        made = tern_lightning.export(example.module, folder / name, onnx_only=True, samples=samples, verify=False)
        yield name, str(made.onnx)


def _row(name: str, said: TargetEstimate, artifact: Path) -> dict[str, Any]:
    """What was estimated, and the bytes that came out."""
    metadata = store.read_metadata(artifact)
    files = {"weights": store.WEIGHTS, "code": LIBRARY, "metadata": store.METADATA}
    return {
        "name": name,
        "estimate_ms": None if said.seconds is None else 1e3 * said.seconds,
        "unknown": said.unknown,
        "stored": said.stored,
        "files": {kind: (artifact / file).stat().st_size for kind, file in files.items()},
        "arena": [said.ram["arena"], metadata["memory"]["arena_bytes"]],
        "steps": [None if step.seconds is None else 1e6 * step.seconds for step in said.steps],
    }


def run(folder: Path, measured: Sequence[str], rounds: int, seconds: float) -> tuple[list[dict[str, Any]], Any]:
    """Estimates, compiles and measures; returns a row a network, and the last estimate.

    Args:
        folder: Where artifacts lie; those that are there are not made again.
        measured: Profile tables for the host.
        rounds: How often every network is measured.
        seconds: How long in a round.
    """
    rows, said = [], None
    for name, model in models(folder):
        (said,) = estimate(model, ["host"], measured)
        artifact = folder / name.replace(" ", "-").replace("%", "")
        artifact = artifact.with_name(f"{artifact.name}-artifact")
        if not artifact.is_dir():
            tvm_schedules.build(model, artifact, verify=False)
        rows.append({**_row(name, said, artifact), "artifact": str(artifact)})
        print(f"{name}: estimated {rows[-1]['estimate_ms']:.4g} ms", flush=True)
    artifacts = [Path(row.pop("artifact")) for row in rows]
    for row, found in zip(rows, measure(artifacts, rounds, seconds, steps=True), strict=True):
        row |= {"times": found["times"], "measured_steps": found["steps"], "measured_ms": quickest(found)}
    return rows, said


def ordered(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Pairs of networks that are ordered right, of those whose latencies differ by :data:`APART` or more."""
    right = total = 0
    for one, other in combinations(rows, 2):
        fast, slow = sorted((one, other), key=lambda row: float(row["measured_ms"]))
        if slow["measured_ms"] >= (1 + APART) * fast["measured_ms"]:
            total += 1
            right += fast["estimate_ms"] < slow["estimate_ms"]
    return right, total


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Estimate over measurement, on logarithmic axes, with lines at 15 %."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "estimate"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
    measured, said = ([row[key] for row in rows] for key in ("measured_ms", "estimate_ms"))
    ends = np.array([0.7 * min(measured), 1.4 * max(measured)])
    axes.fill_between(ends, 0.85 * ends, 1.15 * ends, alpha=0.2, label="within 15 %")
    axes.plot(ends, ends, linewidth=0.8)
    axes.loglog(measured, said, "o", color="black", markersize=4)
    for index, row in enumerate(sorted(rows, key=lambda row: float(row["measured_ms"]))):
        place, side = ((-5, 3), "right") if index % 2 else ((5, -9), "left")  # names of neighbors would overlap
        point = (row["measured_ms"], row["estimate_ms"])
        axes.annotate(row["name"], point, place, textcoords="offset points", ha=side, size=7)
    axes.set(xlabel="measured, ms", ylabel="estimated, ms")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Estimates, measures and prints; returns the exit status."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.estimate", description=__doc__.splitlines()[0])
    made.add_argument("--measured", action="append", default=[], metavar="FILE", help="profile table of this machine")
    made.add_argument("--rounds", type=int, default=5, help="how often every network is measured (default: 5)")
    made.add_argument("--seconds", type=float, default=0.3, help="how long in a round (default: 0.3)")
    made.add_argument("--work", type=user_path, metavar="DIR", help="keep artifacts here, and take them from here")
    made.add_argument("--json", type=user_path, metavar="FILE", help="write everything as JSON, and a plot beside it")
    options = made.parse_args(arguments)
    with temporary_folder("estimate") as place:
        folder = options.work or place
        folder.mkdir(parents=True, exist_ok=True)
        rows, said = run(folder, options.measured, options.rounds, options.seconds)
    for row in rows:
        error = row["estimate_ms"] / row["measured_ms"] - 1
        print(
            f"{row['name']:24} {row['measured_ms']:9.4f} ms measured, {row['estimate_ms']:9.4f} estimated, {error:+.1%}"
        )
    right, total = ordered(rows)
    print(f"{right} of {total} pairs that differ by {APART:.0%} are ordered right; the error bar is ±{said.error:.0%}")
    if options.json:
        words = [f"--rounds={options.rounds}", f"--seconds={options.seconds:g}", "--json", options.json.name]
        about: dict[str, Any] = {"command": shlex.join(["python", "-m", "benchmarks.estimate", *words])}
        about |= {"when": time.strftime("%Y-%m-%d", time.gmtime()), "machine": ThisMachine().describe()}
        about |= {"source": said.source, "error": said.error}
        write_file(options.json, json.dumps({**about, "rows": rows}, indent=1) + "\n")
        plot(rows, options.json.with_suffix(".svg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
