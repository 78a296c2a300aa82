"""What tuning found, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .search import Tuned

__all__ = ["excess", "show"]


def excess(layers: Sequence[Tuned]) -> float:
    """How much longer the cost model's choices take than the best ones, over all layers, as a share."""
    tuned = sum(layer.tuned_us for layer in layers)
    return sum(layer.model_us for layer in layers) / tuned - 1 if tuned else 0.0


def show(console: Any, layers: Sequence[Tuned]) -> None:
    """Print layers with the cost model's and the best time of each."""
    from rich.table import Table

    table = Table(title=None, box=None, pad_edge=False)
    for column in ("layer", "chosen", "cost model, us", "tuned, us", "gain", ""):
        table.add_column(column, justify="left" if column in ("layer", "chosen", "") else "right")
    for layer in layers:
        gain = f"{layer.model_us / layer.tuned_us:.2f} x" if layer.chosen != layer.model else ""
        times = [f"{layer.model_us:.1f}", f"{layer.tuned_us:.1f}"]
        table.add_row(layer.name, str(layer.chosen), *times, gain, "from the database" if layer.reused else "")
    console.print(table)
    console.print(f"the cost model's choices take {excess(layers):.1%} longer than the measured best ones")
