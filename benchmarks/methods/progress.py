"""Shows how far a comparison is."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress:
    """Bars on a terminal, and a line for every result, which also a log file can hold.

    Args:
        runs: How many there are.
    """

    def __init__(self, runs: int) -> None:
        self.console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Bars(*columns, console=self.console, disable=not self.console.is_terminal)
        self.all, self.one = self.bars.add_task("runs", total=runs), self.bars.add_task("", total=100)
        self._last = 0.0

    def __enter__(self) -> Progress:
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def tell(self, name: str, share: float) -> None:
        """Show how much of a run is done."""
        if time.monotonic() - self._last > 0.1 or share >= 1:
            self._last = time.monotonic()
            self.bars.update(self.one, description=name, completed=round(100 * share))

    def done(self, result: dict[str, Any]) -> None:
        """Count a run and print what it found."""
        self.bars.advance(self.all)
        name = result["recipe"] + ("+kd" if result["distill"] else "")
        zeros = f"{result['sparsity']:6.1%} zeros, " if "sparsity" in result else ""
        text = f"seed {result['seed']} {name:24s} {result['accuracy']:7.2%}, {zeros}{result['bytes']:,} bytes"
        self.console.print(text, highlight=False)
