"""Estimates as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_schedules.estimate.estimate import TargetEstimate

__all__ = ["lines", "steps", "summary"]


def summary(found: Sequence[TargetEstimate]) -> Any:
    """A target a row, as a ``rich`` table."""
    from rich.table import Table

    made = Table()
    for index, column in enumerate(("target", "ms", "error", "RAM", "stored", "of it weights", "of it code, about")):
        made.add_column(column, justify="right" if index else "left")
    for one in found:
        exact = one.stored.get("weights", one.stored.get("tables", 0))
        made.add_row(
            one.target,
            _milliseconds(one.seconds),
            "not known" if one.error is None else f"±{one.error:.0%}",
            f"{one.ram_bytes:,}",
            f"{one.stored_bytes:,}" if "code" in one.stored else f"{one.stored_bytes:,} and code",
            f"{exact:,}",
            f"{one.stored['code']:,}" if "code" in one.stored else "",
        )
    return made


def lines(found: Sequence[TargetEstimate]) -> list[str]:
    """Where the times are from, a line a target, and what they leave out."""
    made = []
    for one in found:
        made.append(f"{one.target}: {one.source}")
        if one.unknown:
            made.append(f"{one.target}: {one.unknown:.0%} of the time is guessed, of operators that were not measured")
    return made


def steps(found: Sequence[TargetEstimate]) -> Any:
    """A step a row, with the time on every target whose network has this step, as a ``rich`` table."""
    from rich.table import Table

    made = Table()
    names = list(dict.fromkeys(step.name for one in found for step in one.steps))
    for index, column in enumerate(("step", "operator", "zeros", "bytes", *(f"{one.target}, us" for one in found))):
        made.add_column(column, justify="right" if index > 1 else "left", overflow="fold")
    by_name = [{step.name: step for step in one.steps} for one in found]
    for name in names:
        first = next(entry[name] for entry in by_name if name in entry)
        cells = []
        for entry in by_name:
            step = entry.get(name)
            cells.append("" if step is None or step.seconds is None else f"{1e6 * step.seconds:,.1f} {step.kernel}")
        zeros = "" if first.zeros is None else f"{first.zeros:.1%}"
        made.add_row(name, first.op, zeros, f"{first.weight_bytes:,}" if first.weight_bytes else "", *cells)
    return made


def _milliseconds(seconds: float | None) -> str:
    return "not known" if seconds is None else f"{1e3 * seconds:.4g}"
