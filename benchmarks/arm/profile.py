"""Profile tables of ARM cores without the hardware: cycles of the steps of many networks, by QEMU and llvm-mca.

``python -m benchmarks.arm.profile a72`` counts the networks of :mod:`tvm_schedules.bench.profile_networks` and writes
``tvm_schedules/estimate/tables/a72.json``. Cycles are llvm-mca's of the blocks that ran: there are no caches in them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.arm import count, mca, tools
from tests.arm import board
from tvm_schedules.bench.profile import library_of
from tvm_schedules.bench.profile_networks import networks
from tvm_schedules.cli.common import words
from tvm_schedules.common.files import user_path
from tvm_schedules.estimate import table as tables
from tvm_schedules.estimate.fit import Row
from tvm_schedules.estimate.lowered import lower
from tvm_schedules.estimate.table import Library, Table
from tvm_schedules.pipeline import read_graph
from tvm_schedules.targets.registry import resolve

HOT = 200
"""Blocks of code that are kept of a step."""


def main(arguments: list[str] | None = None) -> int:
    """Counts and writes; returns the exit status."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.arm.profile", description=str(__doc__).splitlines()[0])
    made.add_argument("target", choices=list(count.CPUS), help="core")
    made.add_argument("--only", type=words, metavar="NAMES", help="networks, separated by commas (default: all)")
    made.add_argument("--output", type=user_path, metavar="FILE", help="(default: the package's own table)")
    options = made.parse_args(arguments)
    if reason := tools.missing():
        print(reason, file=sys.stderr)
        return 1
    rows: list[Row] = []
    libraries: list[Library] = []
    for name, model in networks():
        if options.only and name not in options.only:
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="tern-profile-") as folder:
            found, library = _count(name, model, options.target, Path(folder))
        rows += found
        libraries.append(library)
        cycles, seconds = sum(row.value for row in found), time.monotonic() - started
        print(f"{name}: {cycles / 1e3:,.0f} k cycles, {seconds:.0f} s", flush=True)
    how = "instructions counted by QEMU, cycles by llvm-mca without caches"
    when = time.strftime("%Y-%m-%d", time.gmtime())
    core = mca.CORES[options.target]
    table = Table(core, options.target, "cycles", how, when, tuple(rows), tuple(libraries))
    place = options.output or Path(tables.__file__).with_name("tables") / f"{options.target}.json"
    tables.write(place, table)
    error = "not known" if table.error is None else f"{table.error:.1%}"
    print(f"{place}: {len(rows)} steps, held-out error of networks {error} (90th percentile)")
    return 0


def _count(name: str, model: Any, target: str, folder: Path) -> tuple[list[Row], Library]:
    """The steps of a network; that of a call has no cycles, for it is Python's."""
    made = lower(read_graph(model), resolve(target))
    steps = count.network(model, target, folder, HOT, peer=False)["steps"]
    rows = []
    for one, step in zip(made.counted(), steps, strict=False):
        region = step["region"]
        cycles = mca.estimate(region.blocks, mca.CORES[target]) / max(region.kept, 0.5)
        rows.append(Row(name, *one, cycles))
    return rows, library_of(name, made, folder / "artifact")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except board.BoardError as error:
        sys.exit(str(error))
