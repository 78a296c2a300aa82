"""Tables of what was counted, beside CMSIS-NN and beside an earlier run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mcu.cores import CORES
from benchmarks.mcu.networks import SHARED

__all__ = ["SAME", "changes", "key", "merged", "reference", "table"]

Row = Mapping[str, Any]
SAME = 0.005
"""Counts are exact; below this share a change is no worse code, but other alignment and the like."""


def reference(counted: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """The recorded figures of CMSIS-NN and TFLite Micro.

    Args:
        counted: Thousands of CMSIS-NN's instructions by network and core that take the place of recorded ones.
    """
    known = dict(json.loads(Path(__file__).with_name("cmsis_nn.json").read_text()))
    thousands = {what: {**known["thousands"].get(what, {}), **found} for what, found in (counted or {}).items()}
    whole = {**known["thousands"], **thousands}
    # Zeros are multiplied like all others there, wherever they are.
    alike = {f"{what}-{end}": found for what, found in whole.items() for end in SHARED}
    return {**known, "thousands": {**alike, **whole}}


def ratio(row: Row, peers: Mapping[str, Any]) -> float | None:
    """Our instructions by CMSIS-NN's; None where these are not known."""
    theirs = peers["thousands"].get(row["what"], {}).get(row["core"])
    return None if theirs is None else row["instructions"] / 1000 / theirs


def key(row: Row) -> tuple[Any, ...]:
    """What a row is about."""
    return row["what"], row["core"], row["zeros"], row["depthwise"], row["options"]


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A file of counts with the rows of a later one in the place of its own, and all commands.

    Args:
        old: What ``--json`` wrote.
        new: What it writes now.
    """
    counted = {key(row) for row in new["rows"]}
    names = dict.fromkeys([*old["cmsis_nn"], *new["cmsis_nn"]])
    return {
        "when": new["when"],
        "commands": list(dict.fromkeys([*old["commands"], *new["commands"]])),
        "tools": {**old["tools"], **new["tools"]},
        "cmsis_nn": {what: {**old["cmsis_nn"].get(what, {}), **new["cmsis_nn"].get(what, {})} for what in names},
        "rows": [*(row for row in old["rows"] if key(row) not in counted), *new["rows"]],
    }


def name(row: Row) -> str:
    """The network as tables call it; t: depthwise layers ternary too."""
    return f"{row['what']} {row['zeros']:.0%}{' t' if row['depthwise'] else ''}"


def table(rows: Sequence[Row], peers: Mapping[str, Any]) -> str:
    """Thousands of instructions, the ratio to CMSIS-NN's, and bytes."""
    lines = [["", "core", "thousands", "of CMSIS-NN", "flash", "arena", "stack"]]
    for row in rows:
        share = ratio(row, peers)
        lines.append(
            [name(row), CORES[row["core"]].title, f"{row['instructions'] / 1000:,.0f}"]
            + ["" if share is None else f"{share:.2f}"]
            + [f"{row[part]:,}" for part in ("flash", "arena", "stack")]
        )
    return _aligned(lines)


def changes(old: Sequence[Row], new: Sequence[Row]) -> tuple[str, bool]:
    """What moved since an earlier run, and whether anything takes more instructions than then.

    Args:
        old: Rows of the earlier run.
        new: Rows of this one; those that the earlier one lacks are left out.
    """
    before = {key(row): row for row in old}
    lines, worse = [["", "core", "before", "now", "ratio", "flash", "arena"]], False
    for row in new:
        then = before.get(key(row))
        if then is None:
            continue
        moved = row["instructions"] / then["instructions"]
        worse = worse or moved > 1 + SAME
        thousands = [f"{one['instructions'] / 1000:,.0f}" for one in (then, row)]
        parts = [f"{row[part] - then[part]:+,}" for part in ("flash", "arena")]
        lines.append([name(row), CORES[row["core"]].title, *thousands, f"{moved:.3f}", *parts])
    return _aligned(lines), worse


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in rows) for i in range(len(rows[0]))]
    lines = []
    for line in rows:
        cells = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
