"""What the code of attention depends on, and the sizes of its panels, tiles and blocks that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_schedules.ir.view import View

__all__ = ["LOG2E", "MOST_INNER", "Matrices", "Spec"]

MOST_ROWS = 96
"""Queries of a block at most."""

BLOCK_BYTES = 96 << 10
"""Scores of a block at most, where that is a tile of rows at least."""

LOG2E = 1.4426950408889634

MOST_INNER = (2**31 - 1) // 255**2
"""Products of bytes that 32 bits hold the sum of."""


@dataclass(frozen=True)
class Matrices:
    """Where some matrices lie in a buffer, in elements.

    Args:
        elements: Of the buffer.
        view: Shape and strides, the leading axes first, then rows and columns.
    """

    elements: int
    view: View

    @property
    def row(self) -> int:
        """Elements from a row to the next."""
        return self.view.strides[-2]

    @property
    def column(self) -> int:
        """Elements from a column to the next."""
        return self.view.strides[-1]


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        q: Queries ``[..., S, D]``.
        k: Keys ``[..., T, D]``.
        v: Values ``[..., T, Dv]``.
        masks: What is added to the scores, ``[..., S, T]`` each.
        limits: Which of them are the most that scores may be, and not added.
        empty: Whether rows whose scores are all minus infinity have zeros as results.
        out: Results ``[..., S, Dv]``.
        factor: What products are multiplied by.
        vector: Bytes a vector register.
        registers: Vector registers.
        parallel: Whether threads share the jobs.
        fma: Whether the target has a fused multiply-add.
        short: Whether queries and keys are multiplied as integers of 16 bits.
        steps: Where these are bytes less a zero point, what queries and what keys are multiples of.
    """

    q: Matrices
    k: Matrices
    v: Matrices
    masks: tuple[Matrices, ...]
    limits: tuple[bool, ...]
    empty: bool
    out: Matrices
    factor: float
    vector: int
    registers: int
    parallel: bool
    fma: bool
    short: bool
    steps: tuple[float, float] | None = None

    @property
    def lanes(self) -> int:
        """float32 lanes of a vector."""
        return self.vector // 4

    @property
    def unit(self) -> float:
        """What products are multiplied by here: where nothing is added to them, scores are exponents of two."""
        return self.factor if self.masks else self.factor * LOG2E

    @property
    def queries(self) -> int:
        """S."""
        return self.q.view.shape[-2]

    @property
    def keys(self) -> int:
        """T."""
        return self.k.view.shape[-2]

    @property
    def depth(self) -> int:
        """D."""
        return self.q.view.shape[-1]

    @property
    def width(self) -> int:
        """Dv."""
        return self.v.view.shape[-1]

    def tile(self, vectors: int, short: bool = False) -> int:
        """Rows of a register tile: its sums, one vector of every column group and a broadcast fit the registers.

        Integers need one more, for products that are not yet added.
        """
        return max(1, min(self.queries, (self.registers - vectors - 1 - short) // vectors))

    def vectors(self, columns: int, short: bool = False) -> int:
        """Vectors of a panel: those with the least work, counting the columns past the end and the loads of a step."""
        # A step of a tile of r rows and v vectors has r * v multiply-adds and r + v loads.
        costs = {}
        for count in range(1, 5):
            rows, padded = self.tile(count, short), -(-columns // (count * self.lanes)) * count
            costs[count] = padded * (1 + max(0.0, (rows + count) / (rows * count) - 0.7))
        return min(costs, key=lambda count: costs[count])

    @property
    def padded(self) -> int:
        """Keys rounded up to whole panels of the first product."""
        panel = self.vectors(self.keys, self.short) * self.lanes
        return -(-self.keys // panel) * panel

    @property
    def block(self) -> int:
        """Queries of a block: as many as leave their scores near, and no more rows twice than needed."""
        tile = self.tile(self.vectors(self.keys, self.short), self.short)
        most = max(tile, min(MOST_ROWS, BLOCK_BYTES // (4 * self.padded)))
        sizes = {*range(tile, min(most, self.queries) + 1, tile), min(most, self.queries)}
        return min(sorted(sizes, reverse=True), key=lambda rows: -(-self.queries // rows) * -(-rows // tile))
