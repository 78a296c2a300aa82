"""``python -m benchmarks.front RUNS``: what networks of a comparison cost in time, for the page of accuracy over time.

    python -m benchmarks.methods --data fashion-mnist --recipes 'float-longer,twn-*' --onnx --output runs/front
    python -m benchmarks.front runs/front/fashion-mnist-resnet20-s2 --json benchmarks/measured/front.json

Every ``NAME/model.onnx`` below ``RUNS/seed-N`` is compiled for this CPU and measured with one thread, all of them and
onnxruntime's int8 form of the float network in turns. Then it is counted on emulated ARM cores, in cycles of llvm-mca.
Counting takes minutes a network, and its result is kept beside ``model.onnx``: ``--count`` counts ahead, a later call
takes what is there. Time hardly depends on the seed, so one is measured; accuracy is that of all seeds, in the files of
the comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import tvm_schedules
from benchmarks.arm import count, mca, tools
from benchmarks.front.page import FLOAT, PEER, plot
from benchmarks.latency import measure, quickest
from benchmarks.methods.report import rows_of
from tvm_schedules.artifact import store
from tvm_schedules.bench import peers
from tvm_schedules.bench.machines import ThisMachine
from tvm_schedules.cli.common import words
from tvm_schedules.common.files import temporary_folder, user_path, write_file
from tvm_schedules.frontend.onnx_file import read_model

REFERENCE = "float-longer"
HOT = 200
"""Blocks of code that are kept of a network, of which cycles are estimated."""


def found(runs: Path, seed: int, recipes: Sequence[str]) -> dict[str, Path]:
    """The networks of a seed by recipe; the float one is the peers'.

    Raises:
        FileNotFoundError: There is none, or not the float one.
    """
    paths = {path.parent.name: path for path in sorted((runs / f"seed-{seed}").glob("*/model.onnx"))}
    if FLOAT not in paths:
        raise FileNotFoundError(f"{runs / f'seed-{seed}'} has no {FLOAT}/model.onnx: train with --onnx")
    chosen = [name for name in paths if any(fnmatchcase(name, pattern) for pattern in recipes)]
    return {name: paths[name] for name in (FLOAT, *(name for name in chosen if name != FLOAT))}


def compiled(models: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """An artifact of every network for this CPU."""
    artifacts = {}
    for name, path in models.items():
        print(f"{name}: compiling", flush=True)
        artifacts[name] = folder / name
        tvm_schedules.build(path, artifacts[name], "host", verify=False)
    return artifacts


def measured(artifacts: Mapping[str, Path], folder: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Milliseconds of a run with one thread, by recipe: the smallest of the rounds' lower quartiles."""
    engines, _ = peers.onnxruntime_engines(artifacts[FLOAT], folder)
    others = [(engine, artifacts[FLOAT]) for engine in engines if engine.name == PEER]
    found = measure(list(artifacts.values()), rounds, seconds, others=others)
    return dict(zip([*artifacts, *(engine.name for engine, _ in others)], map(quickest, found), strict=True))


def counted(path: Path, target: str) -> dict[str, float]:
    """Thousands of instructions and of estimated cycles of a network on an ARM core; counted once for a file."""
    kept = path.with_name("counted.json")
    known: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if known.get("model") != digest:
        known = {"model": digest, "cores": {}}
    if target not in known["cores"]:
        with temporary_folder("front") as folder:
            region = count.network(read_model(path), target, folder, HOT, peer=False)["tern"]
        cycles = mca.estimate(region.blocks, mca.CORES[target]) / max(region.kept, 0.5)
        known["cores"][target] = {"instructions": region.counts["all"] / 1e3, "cycles": cycles / 1e3}
        write_file(kept, json.dumps(known, indent=1) + "\n")
    return dict(known["cores"][target])


def kernels(artifact: Path) -> dict[str, int]:
    """How many steps of an artifact every kernel computes."""
    return dict(Counter(step["kernel"] for step in store.read_metadata(artifact)["steps"]))


def main(arguments: list[str] | None = None) -> int:
    """Measures, counts and writes; returns the exit status."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.front", description=str(__doc__).splitlines()[0])
    made.add_argument("runs", type=user_path, help="folder of a comparison that kept its networks (--onnx)")
    made.add_argument("--seed", type=int, default=0, help="whose networks are measured (default: 0)")
    made.add_argument("--recipes", type=words, default=["*"], metavar="PATTERNS", help="(default: all)")
    made.add_argument("--cores", type=words, default=["a53", "a72", "a76"], help="(default: a53,a72,a76); none")
    made.add_argument("--rounds", type=int, default=9, help="how often every network is measured (default: 9)")
    made.add_argument("--seconds", type=float, default=0.2, help="how long in a round (default: 0.2)")
    made.add_argument("--count", action="store_true", help="only count, where it is not done")
    made.add_argument("--json", type=user_path, metavar="FILE", help="write everything as JSON")
    options = made.parse_args(arguments)
    cores = [] if options.cores == ["none"] else options.cores
    if cores and (reason := tools.missing()):
        print(reason, file=sys.stderr)
        return 1
    accuracies = rows_of(options.runs, (), REFERENCE) if options.json else []  # what is missing is said before all work
    models = found(options.runs, options.seed, options.recipes)
    if options.count:
        for name in [name for name in models if name != FLOAT]:
            print(name, ", ".join(f"{core} {counted(models[name], core)['cycles']:,.0f} kcycles" for core in cores))
        return 0
    with temporary_folder("front") as folder:
        artifacts = compiled(models, folder)
        used = {name: kernels(artifact) for name, artifact in artifacts.items()}
        times = measured(artifacts, folder, options.rounds, options.seconds)
    rows: list[dict[str, Any]] = []
    for name, ms in times.items():
        count_on = cores if name in models and name != FLOAT else []
        found_on = {core: counted(models[name], core) for core in count_on}
        rows.append({"recipe": name, "ms": ms, "kernels": used.get(name, {}), "counted": found_on})
        cycles = "".join(f", {core} {at['cycles']:,.0f} kcycles" for core, at in found_on.items())
        print(f"{name}: {ms:.4f} ms{cycles}", flush=True)
    if options.json:
        given = sys.argv[1:] if arguments is None else arguments
        about = {"command": shlex.join(["python", "-m", "benchmarks.front", *given]), "cores": cores}
        about |= {"when": time.strftime("%Y-%m-%d", time.gmtime()), "machine": ThisMachine().describe()}
        data = {**about, "rows": rows}
        write_file(options.json, json.dumps(data, indent=1) + "\n")
        plot(accuracies, data, options.json.with_suffix(".svg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
