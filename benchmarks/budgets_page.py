"""The page about budgets, of what ``python -m benchmarks.budgets --write`` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from benchmarks.measured_pages import paragraph, table_row

__all__ = ["budgets"]

NAMES = {
    "uniform": "the same zeros in every layer",
    "budget": "a budget",
    "grouped": "a budget that chooses groups",
    "float": "a budget that may leave layers float",
    "entropy": "a budget by entropy",
}

_ORDINALS = ("first", "second", "third", "fourth", "fifth")


def budgets(data: Mapping[str, Any], loose: Mapping[str, Any]) -> list[str]:
    """The page about budgets.

    Args:
        data: What ``benchmarks.budgets --write`` wrote.
        loose: The same with budgets that leave room for float layers.
    """
    rows, plan = data["rows"], data["plan"]
    floats = data["float"]
    seeds = f"{len(floats)} seed{'s' * (len(floats) > 1)}"
    ways = [how for how in NAMES if any(row["how"] == how for row in rows)]
    over = {how: max(row["measured_ms"] / row["estimate_ms"] - 1 for row in rows if row["how"] == how) for how in ways}
    one = " with one level" if data.get("levels") == 1 else ""
    said = {
        "uniform": "gives every layer the same share of zeros.",
        "budget": "is a `LatencyBudget` of the milliseconds that the first is estimated to take.",
        "grouped": "also chooses for every layer whether 1, 2 or 4 neighboring output channels lose weights together.",
        "float": "may instead leave layers float.",
        "entropy": f"has EC2T{one} as its method, and sets the strength of its entropy constraint.",
    }
    explained = [f"The {ordinal} way {said[how]}" for ordinal, how in zip(_ORDINALS, ways, strict=False)]
    return [
        "# Budgets beside uniform sparsity",
        "",
        *paragraph(
            f"ResNet-20 with a strided first layer, {data['data']}, {data['images']:,} training images,",
            f"{plan['float_epochs']} epochs in float and {plan['epochs']} ternary, {seeds}. The float",
            f"networks reach {100 * mean(floats):.2f} %.",
            *explained,
            f"Milliseconds are those of the exported networks with one thread of an {data['machine']['cpu']},",
            f"{data['when']}: `{data['command']}`.",
        ),
        "![accuracy over measured milliseconds](../../benchmarks/measured/budgets.svg)",
        "",
        *_table(rows),
        "",
        *paragraph(
            "Points are means and standard deviations of the differences to the first way, seed by seed. Groups count",
            "fewer zeros for the same time: their kernel reads a pixel once for all channels of a group.",
        ),
        *paragraph(
            "A budget is as good as its estimate. At most, measured times are over the estimate by",
            f"{', '.join(f'{share:.0%} ({NAMES[how]})' for how, share in over.items())}.",
            "So compare accuracies at measured times: the plot does.",
        ),
        *_loose(loose),
    ]


def _loose(data: Mapping[str, Any]) -> list[str]:
    """What budgets do that leave room for float layers."""
    rows = data["rows"]
    zeros = sorted({row["zeros"] for row in rows})
    floats = {share: mean(row["float_layers"] for row in rows if _is(row, "float", share)) for share in zeros}
    dense = mean(row["float_layers"] for row in rows if row["how"] == "uniform")
    said = " and ".join(f"{count - dense:.1f} at {share:.0%}" for share, count in floats.items())
    return [
        "## Loose budgets, and layers that stay float",
        "",
        *paragraph(
            "A budget that may leave layers float can only do so where it has room. These are the same networks,",
            f"{len(data['float'])} seed{'s' * (len(data['float']) > 1)}, with a looser budget as well. With",
            f"`allow_float=True` the mean number of layers that stay float beside the first and the last is {said}.",
            "A layer without any zero is faster here than one with half of its weights zero at random: its channels",
            "share all places. So the loose budget prunes nothing, and the network is faster than the uniform one.",
            f"`{data['command']}`, {data['when']}.",
        ),
        *_table(rows),
        "",
    ]


def _is(row: Mapping[str, Any], how: str, zeros: float) -> bool:
    return bool(row["how"] == how and row["zeros"] == zeros)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        "| | accuracy, % | gained by the way, points | zeros, % | estimated, ms | measured, ms |",
        "|---|---:|---:|---:|---:|---:|",
        *(line for share in sorted({row["zeros"] for row in rows}) for line in _lines(rows, share)),
    ]


def _lines(rows: Sequence[Mapping[str, Any]], zeros: float) -> list[str]:
    own = [row for row in rows if row["zeros"] == zeros]
    base = {row["seed"]: row["accuracy"] for row in own if row["how"] == "uniform"}
    lines = []
    for how, name in NAMES.items():
        found = [row for row in own if row["how"] == how]
        if not found:
            continue
        gains = [100 * (row["accuracy"] - base[row["seed"]]) for row in found]
        spread = f" ± {stdev(gains):.2f}" if len(gains) > 1 else ""
        cells = [f"{zeros:.0%}: {name}", f"{100 * mean(row['accuracy'] for row in found):.2f}"]
        cells += ["" if how == "uniform" else f"{mean(gains):+.2f}{spread}"]
        cells += [f"{100 * mean(row['sparsity'] for row in found):.1f}"]
        cells += [f"{mean(row[key] for row in found):.4f}" for key in ("estimate_ms", "measured_ms")]
        lines.append(table_row(*cells))
    return lines
