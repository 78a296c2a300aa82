"""What tuning found, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_schedules.tuner.search import Tuned

__all__ = ["excess", "show"]


def excess(layers: Sequence[Tuned]) -> float:
    """How much longer the cost model's choices take than the best ones, over all layers, as a share."""
    tuned = sum(layer.tuned_us for layer in layers)
    return sum(layer.model_us for layer in layers) / tuned - 1 if tuned else 0.0


def show(console: Any, layers: Sequence[Tuned]) -> None:
    """Print layers with the cost model's and the best time of each."""
    from rich.table import Table

    table = Table(title=None, box=None, pad_edge=False)
    for column in ("layer", "kernel", "cost model, us", "tuned, us", "gain", "changed"):
        table.add_column(column, justify="right" if column in ("cost model, us", "tuned, us", "gain") else "left")
    for layer in layers:
        gain = f"{layer.model_us / layer.tuned_us:.2f} x" if layer.chosen != layer.model else ""
        times = [f"{layer.model_us:.1f}", f"{layer.tuned_us:.1f}"]
        table.add_row(layer.name, layer.chosen.kernel, *times, gain, _changed(layer))
    console.print(table)
    if reused := sum(layer.reused for layer in layers):
        console.print(f"{reused} of {len(layers)} layers from the database")
    console.print(f"the cost model's choices take {excess(layers):.1%} longer than the measured best ones")


def _changed(layer: Tuned) -> str:
    """What is not as the cost model has it."""
    if layer.chosen.kernel != layer.model.kernel:
        return f"{layer.chosen} for {layer.model.kernel}"
    return " ".join(f"{name}={value}" for name, value in layer.chosen.knobs if (name, value) not in layer.model.knobs)
