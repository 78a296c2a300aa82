"""Tables of linear layers over bytes, in the form that each kind of core reads fastest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tvm_schedules.backends.c.codes import lists, places, trits
from tvm_schedules.backends.c.program import CORES

__all__ = ["dense", "ternary"]

_LIST_READS = 15
"""Bytes that may be read behind the last list."""

_BYTE = np.arange(4)
_PLACE = np.arange(4)
_WORD = 8 * (_BYTE[:, None] & 1) + 4 * (_PLACE >> 1) + 2 * (_BYTE[:, None] >> 1) + (_PLACE & 1)
_VECTOR = np.arange(16)[:, None] + 16 * _PLACE


def ternary(rows: np.ndarray) -> tuple[Mapping[str, np.ndarray], bool]:
    """The tables of ``source/linear_codes.c`` by kind of core, and whether they are lists.

    Args:
        rows: int8 ``[outputs, inputs]`` of -1, 0, 1.
    """
    found = lists(rows)
    if found is not None:
        return dict.fromkeys(CORES, np.pad(found, (0, _LIST_READS))), True
    shifts = 2 * _PLACE
    return {"plain": trits(rows), "dsp": places(rows, _WORD, shifts), "mve": places(rows, _VECTOR, shifts)}, False


def dense(rows: np.ndarray) -> tuple[Mapping[str, np.ndarray], bool]:
    """The tables of ``source/linear_dots.c`` by kind of core, and whether DSPs have four rows together.

    Args:
        rows: int8 ``[outputs, inputs]``.
    """
    fours = len(rows) // 4 * 4
    if not fours or rows.min() == -128:  # two weights would not fit into a half
        return dict.fromkeys(CORES, rows), False
    wide = np.pad(rows[:fours].astype(np.int64), ((0, 0), (0, -rows.shape[1] % 4)))
    parts = wide.reshape(fours // 4, 2, 2, -1, 2, 2)  # fours, pairs, rows of a pair, four inputs, halves, even or odd
    halves = (256 * parts[:, :, 0] + parts[:, :, 1]).transpose(0, 2, 4, 1, 3)  # fours, four inputs, even or odd, pairs
    rest = rows[fours:].tobytes()
    data = halves.astype("<i2").tobytes() + rest + bytes(-len(rest) % 4)
    return {"plain": rows, "dsp": np.frombuffer(data, "<i4").astype(np.int32), "mve": rows}, True
