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
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.arm import count, mca, models, report, tools
from tests.arm import board
from tvm_schedules.common.files import write_file

NAMES = [*models.LAYERS, *models.LINEARS, *models.NETWORKS]
PEER = "resnet20"
"""The network that is also given to onnxruntime."""
HOT = 200  # blocks that are kept for the estimate of cycles


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.arm", description=__doc__.splitlines()[0])
    made.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(NAMES)} (default: conv3x3 {PEER})")
    made.add_argument("--targets", default="a72,a76", help=f"of {', '.join(count.CPUS)} (default: a72,a76)")
    made.add_argument("--zeros", default="0.8", help="shares of zeros of ternary weights (default: 0.8)")
    made.add_argument("--no-peer", action="store_true", help="do not count onnxruntime")
    made.add_argument("--steps", action="store_true", help="also show a network's steps")
    made.add_argument("--hot", type=int, default=0, metavar="N", help="also show the N hottest blocks of code")
    made.add_argument("--json", metavar="FILE", help="write everything as JSON, after every count")
    made.add_argument("--add", action="store_true", help="keep what else FILE has, of earlier runs with other work")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Counts and prints; returns the exit status."""
    made = parser()
    options = made.parse_args(arguments)
    wanted, targets = options.what or ["conv3x3", PEER], options.targets.split(",")
    for given, known, kind in ((wanted, NAMES, "WHAT"), (targets, list(count.CPUS), "--targets")):
        if wrong := set(given) - set(known):
            made.error(f"{kind} must be of {', '.join(known)}, got {', '.join(sorted(wrong))}")
    try:
        shares = [float(share) for share in options.zeros.split(",")]
    except ValueError:
        made.error(f"--zeros must be numbers with commas between them, got {options.zeros}")
    if not all(0 <= share <= 1 for share in shares):
        made.error(f"--zeros must be between 0 and 1, got {options.zeros}")
    reason = tools.missing()
    if reason:
        print(reason, file=sys.stderr)
        return 1
    cycles = tools.llvm_tool("llvm-mca") is not None
    if not cycles:
        print(f"no estimate of cycles: llvm-mca {tools.LLVM} is missing (apt-get install llvm-22)", file=sys.stderr)
    command = shlex.join(["python", "-m", "benchmarks.arm", *(sys.argv[1:] if arguments is None else arguments)])
    rows: list[dict[str, Any]] = []
    details: list[str] = []
    for what, target in product(wanted, targets):
        for index, zeros in enumerate(_shares(what, shares)):
            peer = not options.no_peer and index == 0  # which does not know zeros
            with tempfile.TemporaryDirectory(prefix="tern-count-") as folder:
                found = _count(what, target, zeros, Path(folder), HOT if cycles else options.hot, peer)
            plan = found.pop("steps", None)
            title = what if zeros is None else f"{what} {zeros:.0%}"
            for engine, region in found.items():
                rows.append(report.row(what, target, engine, region, cycles, zeros))
                if options.hot:
                    code = report.blocks(region, options.hot, mca.CORES[target] if cycles else None)
                    details.append(f"{title}, {target}, {engine}\n{code}")
            if plan and options.steps:
                details.append(f"{title}, {target}\n{report.steps(plan, target, cycles)}")
            if options.json:
                _write(Path(options.json), rows, command, options.add)
            print(f"{title}, {target}: {found['tern'].counts['all'] / 1000:,.0f}", file=sys.stderr, flush=True)
    print("\n\n".join([*details, f"thousands\n{report.table(rows)}"]))
    return 0


def _write(path: Path, rows: list[dict[str, Any]], command: str, add: bool) -> None:
    """Writes the rows, and those of other work that an earlier run has written, with all commands."""
    packages = {name: metadata.version(name) for name in ("apache-tvm", "onnxruntime")}
    made: dict[str, Any] = {"python": platform.python_version(), "packages": packages, "command": [command]}
    made["when"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if add and path.is_file():
        earlier = json.loads(path.read_text())
        own = {(one["what"], one["target"], one["zeros"]) for one in rows}
        rows = [*(one for one in earlier["rows"] if (one["what"], one["target"], one["zeros"]) not in own), *rows]
        made["command"] = list(dict.fromkeys([*earlier["command"], command]))
    write_file(path, json.dumps({**made, "rows": rows}, indent=1) + "\n")


def _shares(what: str, shares: list[float]) -> list[float | None]:
    """The shares of zeros to count with: none where no weight is ternary."""
    layer: Any = {**models.LAYERS, **models.LINEARS}.get(what)
    return [None] if layer is not None and layer.dense else [*shares]


def _count(what: str, target: str, zeros: float | None, folder: Path, hot: int, peer: bool) -> dict[str, Any]:
    if what in models.NETWORKS:
        return count.network(models.NETWORKS[what](zeros or 0.0), target, folder, hot, peer and what == PEER)
    return dict(count.layer(what, zeros or 0.0, target, folder, hot, peer))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except board.BoardError as error:
        sys.exit(str(error))
