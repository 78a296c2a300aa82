"""The page about estimates, of what ``python -m benchmarks.estimate --json`` wrote."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from benchmarks.estimate import APART, ordered

__all__ = ["estimates"]

NEAR = 0.15
"""What an estimate may be off."""


def estimates(data: Mapping[str, Any]) -> list[str]:
    """The page about estimates.

    Args:
        data: What ``benchmarks.estimate --json`` wrote.
    """
    rows = data["rows"]
    errors = [row["estimate_ms"] / row["measured_ms"] - 1 for row in rows]
    right, total = ordered(rows)
    near = sum(abs(error) <= NEAR for error in errors)
    columns = (
        "",
        "measured, ms",
        "estimated, ms",
        "error",
        "guessed",
        "code, bytes",
        "estimated",
        "weights, bytes, exact",
    )
    return [
        "# Estimates beside measurements",
        "",
        *_text(
            "`tern-estimate` says what a network takes without compiling it. These networks are in no profile table,",
            f"and were measured with one thread of an {data['machine']['cpu']}: `{data['command']}`, {data['when']}.",
            f"Estimates are from the table that was {data['source']}. A measurement is the smallest of the rounds'",
            "lower quartiles. The machine had other work.",
        ),
        *_text(
            f"{near} of {len(rows)} are within {NEAR:.0%}, and {right} of {total} pairs that differ by {APART:.0%}",
            f"or more are ordered right. The output states an error bar of ±{data['error']:.0%}. Kinds of layers were",
            "added to the profile where one of these networks showed that a kind was missing: attention, activation",
            "functions, large weights.",
        ),
        *_text(
            "MobileNetV2 moves 20 MB in a run, far more than the second cache holds. Its measured time depends on what",
            "else uses the shared cache: it was 3.2 to 7.8 ms in runs of this command on two days.",
        ),
        "![estimated over measured milliseconds](../../benchmarks/measured/estimate.svg)",
        "",
        f"| {' | '.join(columns)} |",
        "|---|" + "---:|" * 7,
        *(_row(row, error) for row, error in zip(rows, errors, strict=True)),
        "",
        *_text(
            "Guessed is the share of the estimate in operators that have no kernel of their own and were not measured.",
            "The last column says whether the estimated bytes of weights and of memory between layers are the build's.",
        ),
    ]


def _row(row: Mapping[str, Any], error: float) -> str:
    files, stored = row["files"], row["stored"]
    exact = files["weights"] == stored["weights"] and len(set(row["arena"])) == 1
    cells = [row["name"], f"{row['measured_ms']:.4g}", f"{row['estimate_ms']:.4g}", f"{100 * error:+.0f} %"]
    cells += [f"{row['unknown']:.0%}", f"{files['code']:,}", f"{stored['code']:,}"]
    cells.append(f"{files['weights']:,}, {'yes' if exact else '**no**'}")
    return f"| {' | '.join(cells)} |"


def _text(*sentences: str) -> list[str]:
    """A paragraph in lines, and an empty one after it."""
    return [*textwrap.wrap(" ".join(sentences), 130, break_long_words=False, break_on_hyphens=False), ""]
