"""``python -m benchmarks.arm``: instructions of layers and networks on emulated ARM cores, beside onnxruntime's int8.

Counts are exact (onnxruntime's within 0.5 %), and say nothing about caches. Cycles are llvm-mca's and rough: each block
of code as if it ran back to back.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.arm import count, mca, models, report, tools
from tests.arm import board
from tvm_schedules.common.files import write_file

NETWORK = "resnet20"
HOT = 200  # blocks that are kept for the estimate of cycles


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.arm", description=__doc__.splitlines()[0])
    names = [*models.LAYERS, NETWORK]
    made.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(names)} (default: conv3x3 {NETWORK})")
    made.add_argument("--targets", default="a72,a76", help=f"of {', '.join(count.CPUS)} (default: a72,a76)")
    made.add_argument("--zeros", type=float, default=0.8, help="share of zeros of ternary weights (default: 0.8)")
    made.add_argument("--no-peer", action="store_true", help="do not count onnxruntime")
    made.add_argument("--steps", action="store_true", help="also show a network's steps")
    made.add_argument("--hot", type=int, default=0, metavar="N", help="also show the N hottest blocks of code")
    made.add_argument("--json", metavar="FILE", help="write everything as JSON")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Counts and prints; returns the exit status."""
    made = parser()
    options = made.parse_args(arguments)
    wanted, targets = options.what or ["conv3x3", NETWORK], options.targets.split(",")
    for given, known, kind in ((wanted, [*models.LAYERS, NETWORK], "WHAT"), (targets, list(count.CPUS), "--targets")):
        if wrong := set(given) - set(known):
            made.error(f"{kind} must be of {', '.join(known)}, got {', '.join(sorted(wrong))}")
    if not 0 <= options.zeros <= 1:
        made.error(f"--zeros must be between 0 and 1, got {options.zeros}")
    reason = tools.missing()
    if reason:
        print(reason, file=sys.stderr)
        return 1
    cycles = tools.llvm_tool("llvm-mca") is not None
    if not cycles:
        print(f"no estimate of cycles: llvm-mca {tools.LLVM} is missing (apt-get install llvm-22)", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    details: list[str] = []
    for what in wanted:
        for target in targets:
            with tempfile.TemporaryDirectory(prefix="tern-count-") as folder:
                found = _count(what, target, options, Path(folder), HOT if cycles else options.hot)
            plan = found.pop("steps", None)
            for engine, region in found.items():
                rows.append(report.row(what, target, engine, region, cycles))
                if options.hot:
                    code = report.blocks(region, options.hot, mca.CORES[target] if cycles else None)
                    details.append(f"{what}, {target}, {engine}\n{code}")
            if plan and options.steps:
                details.append(f"{what}, {target}\n{report.steps(plan, target, cycles)}")
    print("\n\n".join([*details, f"thousands; {options.zeros:.0%} zeros\n{report.table(rows)}"]))
    if options.json:
        packages = {name: metadata.version(name) for name in ("apache-tvm", "onnxruntime")}
        machine: dict[str, Any] = {"python": platform.python_version(), "packages": packages}
        machine["command"] = shlex.join(
            ["python", "-m", "benchmarks.arm", *(sys.argv[1:] if arguments is None else arguments)]
        )
        machine["when"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_file(options.json, json.dumps({**machine, "zeros": options.zeros, "rows": rows}, indent=1) + "\n")
    return 0


def _count(what: str, target: str, options: argparse.Namespace, folder: Path, hot: int) -> dict[str, Any]:
    peer = not options.no_peer
    if what == NETWORK:
        return count.network(models.resnet20(options.zeros), target, folder, hot, peer)
    return dict(count.layer(what, options.zeros, target, folder, hot, peer))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except board.BoardError as error:
        sys.exit(str(error))
