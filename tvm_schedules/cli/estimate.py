"""The part of ``tern-estimate`` that takes ONNX files and artifacts; checkpoints are read by the training half."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from tvm_schedules.cli.common import add_version, words
from tvm_schedules.common.console import make_console
from tvm_schedules.errors import EstimateError
from tvm_schedules.estimate.estimate import TargetEstimate, estimate

__all__ = ["parser", "print_estimates"]


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="tern-estimate",
        description="Say what a network takes on several targets without compiling it: milliseconds with one thread, "
        "RAM and stored bytes, step by step. RAM and weights are exact; times and code come from measured or counted "
        "kernels, and are printed with their source and the error that they have on networks not seen before.",
    )
    add_version(made)
    made.add_argument("source", help=".onnx file, artifact directory, or Lightning checkpoint (needs --model)")
    made.add_argument(
        "--targets",
        type=words,
        default=["host"],
        metavar="NAMES",
        help="separated by commas: host, pi3, pi4, pi5, cortex-m4, cortex-m7, cortex-m55, c, "
        "other CPU targets of tern-export (default: host)",
    )
    made.add_argument(
        "--measured",
        action="append",
        default=[],
        metavar="FILE",
        help="take times from this table of tern-bench --profile-table, for the target it was made for; repeatable",
    )
    made.add_argument("--steps", action="store_true", help="also show every step")
    made.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return made


def print_estimates(source: Any, options: argparse.Namespace) -> int:
    """Estimates and prints; returns the exit status.

    Args:
        source: What :func:`tvm_schedules.estimate.estimate.estimate` takes.
        options: Of :func:`parser`.

    Raises:
        TernError: The network, a target or a table cannot be used.
    """
    if not options.targets:
        raise EstimateError("--targets must be one name or several, got none")
    show(estimate(source, options.targets, options.measured), options.steps, options.json)
    return 0


def show(found: Sequence[TargetEstimate], with_steps: bool, as_json: bool) -> None:
    """Prints estimates as tables or as JSON."""
    if as_json:
        print(json.dumps([one.to_dict() for one in found], indent=1))
        return
    from tvm_schedules.estimate.show import lines, steps, summary

    console = make_console(width=160)
    console.print(summary(found))
    if with_steps:
        console.print(steps(found))
    for line in lines(found):
        console.print(line)
