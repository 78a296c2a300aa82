"""Command line of profile tables: ``tern-bench --profile-table FILE``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tvm_schedules.cli.common import add_waiting, run
from tvm_schedules.common.console import make_console, plain
from tvm_schedules.common.files import check_writable
from tvm_schedules.errors import BenchError


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="tern-bench --profile-table",
        description="Measure how long each kernel takes over many shapes and shares of zeros, on this machine or on a "
        "board, and write that down for tern-estimate --measured. Networks with random weights are compiled for it, "
        "which takes some minutes.",
    )
    add = made.add_argument
    add("--profile-table", required=True, metavar="FILE", help="where to write")
    add("--target", default="host", metavar="NAME", help="what to compile for (default: host)")
    add("--rounds", type=int, default=5, help="how often every network is measured (default: 5)")
    add("--seconds", type=float, default=0.25, help="for the steps of a network in a round (default: 0.25)")
    add("--rpc", metavar="HOST:PORT", help="a board that runs tern-board serve; needs its --target")
    add_waiting(add)
    return made


def _main(options: argparse.Namespace) -> int:
    from tvm_schedules.bench.boards import machine_on
    from tvm_schedules.bench.profile import profile
    from tvm_schedules.estimate.table import write
    from tvm_schedules.remote.connection import Address
    from tvm_schedules.remote.protocol import DEFAULT_PORT, parse_address

    if options.rounds < 1:
        raise BenchError(f"--rounds must be at least 1, got {options.rounds}")
    if options.rpc and options.target == "host":
        raise BenchError("--rpc needs --target: what to compile for, such as pi4")
    check_writable(options.profile_table)
    log = make_console(stderr=True, soft_wrap=True)
    with log.status("start") as status:
        how = {"rounds": options.rounds, "seconds": options.seconds}

        def say(line: str) -> None:
            status.update(plain(line))

        if options.rpc:
            parse_address(options.rpc, DEFAULT_PORT)
            with Address(options.rpc, "board", False, options.timeout, options.wait).connect(say) as board:
                table = profile(options.target, machine_on(board), progress=say, **how)
        else:
            table = profile(options.target, progress=say, **how)
    write(options.profile_table, table)
    log.print(f"{len(table.rows)} measurements of {table.device}; error on networks left out of the fit:")
    log.print("not known" if table.error is None else f"±{table.error:.0%} (nine of ten)")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Entry point, with ``--profile-table`` among the arguments; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(lambda: _main(options))
