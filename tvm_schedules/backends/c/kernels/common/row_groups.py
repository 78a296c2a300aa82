"""Rows of ternary weights as sums of lists that they share: where neighbors have their zeros together, work is less.

Of two rows, P is half of their sum where both have a weight, Q half of their difference, and what only one of them has
is a list of its own. Each is ternary, and no two have a weight at one place: the first row is P + Q and its own list,
the second P - Q and its own. Four rows that share all their zeros are sums and differences of eight lists, one for the
signs of the last three rows beside those of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from tvm_schedules.backends.c.codes import encode

__all__ = ["RowGroups", "row_groups"]

Codes = npt.NDArray[np.int8]

LIST = 4.0
"""What beginning a list takes, in taps of a block of pixels."""
MIX = 3.0
"""What adding a list's sums to those of a row takes."""
GAIN = 0.9
"""Groups are taken where they cost at most this share of single rows."""
MOST_BYTES = 1.05
"""How many times the bytes of single rows the lists may take."""


@dataclass(frozen=True)
class RowGroups:
    """Lists of a layer's rows.

    Attributes:
        lists: int8 ``[lists of a group, groups, n]``, ternary.
        mix: int8 ``[lists of a group, rows of a group]``: how often a list counts in a row, -1, 0 or 1. The first list
            counts once in all of them.
    """

    lists: Codes
    mix: Codes

    @property
    def rows(self) -> Codes:
        """The rows that the lists are of, ``[rows, n]``."""
        made = np.einsum("lgn,lr->grn", self.lists.astype(np.int64), self.mix.astype(np.int64))
        return made.reshape(-1, made.shape[-1]).astype(np.int8)

    def cost(self) -> float:
        """In taps of a block of pixels."""
        used = np.count_nonzero(self.lists, axis=2) > 0
        mixed = np.count_nonzero(self.mix[1:], axis=1) @ used[1:].sum(1)
        return float(
            np.count_nonzero(self.lists) + LIST * used.sum() + MIX * (mixed + self.mix.shape[1] * len(used[0]))
        )


def row_groups(rows: Codes) -> RowGroups | None:
    """The cheapest lists of a layer's rows; None where single rows cost about as little.

    Args:
        rows: ``[rows, n]`` of -1, 0, 1.
    """
    single = float(np.count_nonzero(rows) + LIST * len(rows))
    room = MOST_BYTES * len(encode(rows)[0])
    fitting = [
        one for one in _made(rows) if len(encode(one.lists.swapaxes(0, 1).reshape(-1, rows.shape[1]))[0]) <= room
    ]
    best = min(fitting, key=RowGroups.cost, default=None)
    return best if best is not None and best.cost() <= GAIN * single else None


def _made(rows: Codes) -> Iterator[RowGroups]:
    if len(rows) % 2 == 0:
        yield _pairs(rows)
    if len(rows) % 4 == 0:
        fours = rows.reshape(-1, 4, rows.shape[1])
        if (fours.any(1) == fours.all(1)).all():
            yield _fours(fours)


def _pairs(rows: Codes) -> RowGroups:
    first, second = rows[::2], rows[1::2]
    both = (first != 0) & (second != 0)
    lists = [np.where(both & (first == second), first, 0), np.where(both & (first != second), first, 0)]
    mix = [[1, 1], [1, -1]]
    for alone, own in ((np.where(both, 0, first), [1, 0]), (np.where(both, 0, second), [0, 1])):
        if alone.any():
            lists.append(alone)
            mix.append(own)
    return RowGroups(np.stack(lists), np.array(mix, np.int8))


def _fours(fours: Codes) -> RowGroups:
    signs = np.array([[1, *rest] for rest in product((1, -1), repeat=3)], np.int8)
    first = fours[:, :1]
    lists = [np.where((fours == first * one[:, None]).all(1), first[:, 0], 0) for one in signs]
    return RowGroups(np.stack(lists), signs)
