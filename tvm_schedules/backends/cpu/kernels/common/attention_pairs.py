"""Scores of attention as sums of products of integers of 16 bits, two of which x86 multiplies and adds at a time.

Keys are made pairs once for a pair of matrices, queries once for a block of them; each by its own largest number, or
exactly where they are bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_schedules.backends.cpu.kernels.common.attention_panels import Panels
from tvm_schedules.backends.cpu.kernels.common.short_pairs import ShortPairs

__all__ = ["PairScores"]


class PairScores:
    """The products of queries and keys, for one job.

    Args:
        panels: What arranges and multiplies.
        queries: Scratch with a block of queries in float32.
        keys: Scratch with the panels of all keys in float32.
    """

    def __init__(self, panels: Panels, queries: Any, keys: Any) -> None:
        self.panels, self.queries, self.keys = panels, queries, keys
        self.e, self.spec, self.lanes = panels.e, panels.spec, panels.lanes
        self.short = ShortPairs(self.e, self.lanes, self.spec.depth)
        self.vectors = self.spec.vectors(self.spec.keys, short=True)
        self.key_pairs = self.e.scratch(self.spec.padded * self.short.count, "int32")
        self.query_pairs = self.e.scratch(self.spec.block * self.short.count, "int32")

    def arrange_keys(self) -> Any:
        """Makes pairs of the panels of keys; the largest key, None where it is not needed."""
        e, spec, n, panel = self.e, self.spec, self.lanes, self.vectors * self.lanes
        short = self.short

        def load(index: Any, lanes: int) -> Any:
            return e.load(self.keys, index, lanes)

        if spec.steps:
            largest, factor = None, e.const(1 / spec.steps[1], "float32")
        else:
            largest = e.bind(short.largest(spec.padded * spec.depth, load, self.panels.across))
            factor = e.bind(short.factor(largest))
        with e.loop(spec.padded // panel) as p, e.loop(panel // n) as v:

            def join(i: Any, both: bool, p: Any = p, v: Any = v) -> None:
                at = (p * spec.depth + i * 2) * panel + v * n
                second = load(at + panel, n) if both else None
                value = short.joined(load(at, n), second, factor, n)
                e.store(self.key_pairs, (p * short.count + i) * panel + v * n, value, n)

            if spec.depth > 1:
                with e.loop(spec.depth // 2) as i:
                    join(i, True)
            if spec.depth % 2:
                join(e.integer(spec.depth // 2), False)
        return largest

    def multiply(self, largest: Any, store: Callable[[Any, Any, list[Any], Any], None]) -> None:
        """Gives the scores of a block of queries to ``store(row, column, sums of every row, unit of the sums)``.

        Args:
            largest: What :meth:`arrange_keys` gave.
            store: Called for every tile.
        """
        e, spec, short = self.e, self.spec, self.short

        def load(index: Any, lanes: int) -> Any:
            return e.load(self.queries, index, lanes)

        if spec.steps:
            factor, unit = (
                e.const(x, "float32") for x in (1 / spec.steps[0], spec.steps[0] * spec.steps[1] * spec.unit)
            )
        else:
            most = e.bind(short.largest(spec.block * spec.depth, load, self.panels.across))
            factor, unit = e.bind(short.factor(most)), e.bind(short.unit(most, largest))
        with e.loop(spec.block) as row:

            def join(i: Any, lanes: int, both: bool, row: Any = row) -> None:
                at = row * spec.depth + i * 2
                first, second = (e.load(self.queries, at + k, lanes, 2) if k < 1 + both else None for k in (0, 1))
                e.store(self.query_pairs, row * short.count + i, short.joined(first, second, factor, lanes), lanes)

            whole = spec.depth // 2 // self.lanes * self.lanes
            if whole:
                with e.loop(whole // self.lanes) as i:
                    join(i * self.lanes, self.lanes, True)
            if spec.depth // 2 > whole:
                with e.loop(spec.depth // 2 - whole) as i:
                    join(i + whole, 1, True)
            if spec.depth % 2:
                join(e.integer(spec.depth // 2), 1, False)

        def scaled(row: Any, column: Any, sums: list[Any]) -> None:
            store(row, column, sums, unit)

        self.panels.product(
            self.query_pairs, short.count, self.key_pairs, self.vectors, spec.padded, scaled, short=short
        )
