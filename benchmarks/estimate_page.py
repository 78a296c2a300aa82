"""The page about estimates, of what ``python -m benchmarks.estimate --json`` and ``benchmarks.mcu.estimates`` wrote."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from benchmarks.estimate import APART, ordered
from benchmarks.mcu.cores import CORES
from benchmarks.mcu.estimates import RESULT
from benchmarks.mcu.page import title

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
            "functions, large weights; and unrolled layers of several terms got coefficients of their own.",
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
        *_controllers(json.loads(RESULT.read_text())),
    ]


def _controllers(data: Mapping[str, Any]) -> list[str]:
    """What was counted on microcontrollers, and by how much estimates are off."""
    rows, cores = data["rows"], list(data["errors"])
    off = {core: max(_off(one, "instructions") for one in rows if one["core"] == core) for core in cores}
    titles = [CORES[core].title for core in cores]
    most = ", ".join(f"{off[core]:.0%} on a {name}" for core, name in zip(cores, titles, strict=True))
    bars = ", ".join(f"±{data['errors'][core]:.0%}" for core in cores)
    outside = ", ".join(
        f"{sum(_off(one, 'instructions') > data['errors'][core] for one in own)} of {len(own)}"
        for core in cores
        for own in [[one for one in rows if one["core"] == core]]
    )
    exact = all(one["arena"] == one["estimate_arena"] for one in rows)
    found: dict[tuple[str, bool, float], dict[str, Mapping[str, Any]]] = {}
    for one in rows:
        found.setdefault((one["what"], one["depthwise"], one["zeros"]), {})[one["core"]] = one
    return [
        "## Microcontrollers",
        "",
        *_text(
            "These are the networks of [the page about microcontrollers](mcu.md), whose instructions were counted:",
            f"`{data['command']}`, {data['when']}. In parentheses is by how much the estimate is more. It is off by",
            f"{most} at most, and that of flash by {max(_off(one, 'flash') for one in rows):.0%}. Bytes of memory",
            f"between the layers are {'exact' if exact else '**not exact**'}. The output states error bars of {bars},",
            f"within which nine of ten networks of the profile stay. Of these networks {outside} are outside.",
            "Residual blocks with strided shortcuts were added to the profile of boards after ResNet-8 had shown that",
            "they were missing. Milliseconds are instructions times a number of cycles for each that is assumed:",
            "these figures say nothing about it.",
        ),
        f"| thousands of instructions | {' | '.join(titles)} | flash on a {titles[0]}, bytes |",
        "|---|" + "---:|" * (len(cores) + 1),
        *(
            _controller(f"{title(what, depthwise)}, {zeros:.0%}", found[what, depthwise, zeros], cores)
            for what, depthwise, zeros in found
        ),
        "",
    ]


_ESTIMATES = {"instructions": "estimate", "flash": "estimate_flash"}


def _off(one: Mapping[str, Any], key: str) -> float:
    return abs(float(one[_ESTIMATES[key]]) / float(one[key]) - 1)


def _controller(name: str, found: Mapping[str, Mapping[str, Any]], cores: list[str]) -> str:
    def cell(one: Mapping[str, Any], key: str, unit: int) -> str:
        return f"{one[key] / unit:,.0f} ({100 * (one[_ESTIMATES[key]] / one[key] - 1):+.0f} %)"

    cells = [cell(found[core], "instructions", 1000) for core in cores]
    return f"| {' | '.join([name, *cells, cell(found[cores[0]], 'flash', 1)])} |"


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
