"""Profile tables of microcontrollers without the hardware: instructions of the steps of many networks, by QEMU.

``python -m benchmarks.mcu.profile m4`` counts the networks of :mod:`tvm_schedules.bench.profile_networks` as C and
writes ``tvm_schedules/estimate/tables/cortex-m4.json``. Networks too large for the board are left out, by name.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mcu import count
from benchmarks.mcu.cores import CORES
from tvm_schedules.bench.profile_networks import networks, shortcuts
from tvm_schedules.cli.common import words
from tvm_schedules.common.files import user_path
from tvm_schedules.estimate import table as tables
from tvm_schedules.estimate.fit import Row
from tvm_schedules.estimate.lowered import lower
from tvm_schedules.estimate.table import Library, Table
from tvm_schedules.estimate.targets import CYCLES, KINDS
from tvm_schedules.pipeline import read_graph
from tvm_schedules.targets.registry import resolve

TARGETS = {core: f"cortex-{core}" for core in CORES if f"cortex-{core}" in CYCLES}
"""Names of targets by those of cores."""


def main(arguments: list[str] | None = None) -> int:
    """Counts and writes; returns the exit status."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.mcu.profile", description=str(__doc__).splitlines()[0])
    made.add_argument("core", choices=list(TARGETS), help="core")
    made.add_argument("--only", type=words, metavar="NAMES", help="networks, separated by commas (default: all)")
    made.add_argument("--output", type=user_path, metavar="FILE", help="(default: the package's own table)")
    options = made.parse_args(arguments)
    if reason := count.missing(options.core):
        print(reason, file=sys.stderr)
        return 1
    target, rows, libraries = TARGETS[options.core], list[Row](), list[Library]()
    for name, model in chain(networks(), shortcuts()):
        if options.only and name not in options.only:
            continue
        started = time.monotonic()
        try:
            found, library = _count(name, model, options.core)
        except count.McuError as error:
            if "overflowed" not in str(error):
                raise
            print(f"{name}: the board has no memory for it", flush=True)
            continue
        rows += found
        libraries.append(library)
        total, seconds = sum(row.value for row in found), time.monotonic() - started
        print(f"{name}: {total / 1e3:,.0f} k instructions, {seconds:.0f} s", flush=True)
    when = time.strftime("%Y-%m-%d", time.gmtime())
    how = "instructions counted by QEMU, compiled with -O3"
    table = Table(CORES[options.core].title, target, "instructions", how, when, tuple(rows), tuple(libraries))
    place = options.output or Path(tables.__file__).with_name("tables") / f"{target}.json"
    tables.write(place, table)
    bar = "not known" if table.error is None else f"{table.error:.1%}"
    print(f"{place}: {len(rows)} steps, held-out error of networks {bar} (90th percentile)")
    return 0


def _count(name: str, model: Any, core: str) -> tuple[list[Row], Library]:
    """The steps of a network, and what its call takes beside them."""
    made = lower(read_graph(model), resolve("c"))
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    samples = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="tern-profile-") as folder:
        count.prepare(model, samples, Path(folder), verify=False)
        found = count.count(Path(folder), core, layers=True)
    values = [*found.layers, max(0, found.instructions - sum(found.layers))]
    rows = [Row(name, *one, float(value)) for one, value in zip(made.counted(), values, strict=True)]
    return rows, Library(name, made.kernels(), len(made.steps), found.flash - made.tables[KINDS[TARGETS[core]]], 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except count.McuError as error:
        sys.exit(str(error))
