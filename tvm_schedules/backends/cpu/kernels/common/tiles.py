"""Tiles of a matrix, turned in registers: rows become columns without a load or store of single elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_schedules.compat import Emitter

__all__ = ["transposed", "zipped"]


def transposed(e: Emitter, rows: Sequence[Any]) -> list[Any]:
    """The columns of a square of ``n`` vectors of ``n`` elements, a power of two.

    In turn blocks of 1, 2, 4 ... elements are exchanged across the diagonal, each exchange a shuffle of two vectors
    (Eklundh, "A fast computer method for matrix transposing", 1972).

    Args:
        e: Emitter of the function.
        rows: The vectors.
    """
    n, vectors = len(rows), [e.bind(row) for row in rows]
    step = 1
    while step < n:
        for i in (i for i in range(n) if not i & step):
            pair = [vectors[i], vectors[i + step]]
            upper = [k if not k & step else n + k - step for k in range(n)]
            vectors[i] = e.bind(e.shuffle(pair, upper))
            vectors[i + step] = e.bind(e.shuffle(pair, [k + step for k in upper]))
        step *= 2
    return vectors


def zipped(e: Emitter, rows: Sequence[Any]) -> list[Any]:
    """Vectors side by side: the first elements of all of them, then the second ones, and so on.

    Args:
        e: Emitter of the function.
        rows: Vectors of 16 bytes, a power of two of them.

    Returns:
        As many vectors.
    """
    if len(rows) == 1:
        return list(rows)
    pairs = zip(zipped(e, rows[::2]), zipped(e, rows[1::2]), strict=True)
    ends = [[v * 16 + i + half for i in range(8) for v in range(2)] for half in (0, 8)]
    return [e.bind(e.shuffle(list(pair), order)) for pair in pairs for order in ends]
