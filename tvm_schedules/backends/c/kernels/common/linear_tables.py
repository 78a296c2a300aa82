"""Tables of linear layers over bytes, in the form that each kind of core reads fastest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tvm_schedules.backends.c.codes import fours, lists, places
from tvm_schedules.backends.c.program import CORES

__all__ = ["dense", "ternary"]

_LIST_READS = 15
"""Bytes that may be read behind the last list."""

_PLACE = np.arange(4)
_INPUT = np.arange(8)
_LANES = 16 * (_INPUT % 4 // 2) + 8 * (_INPUT // 4) + 4 * (_INPUT % 2)
_VECTOR = np.arange(16)[:, None] + 16 * _PLACE


def ternary(rows: np.ndarray) -> tuple[Mapping[str, np.ndarray], bool]:
    """The tables of ``source/linear_codes.c`` by kind of core, and whether they are lists.

    Args:
        rows: int8 ``[outputs, inputs]`` of -1, 0, 1.
    """
    found = lists(rows)
    if found is not None:
        return dict.fromkeys(CORES, np.pad(found, (0, _LIST_READS))), True
    plain, dsp = fours(rows, 2 * _INPUT, 16, False), fours(rows, _LANES, 14, True)
    return {"plain": plain, "dsp": dsp, "mve": places(rows, _VECTOR, 2 * _PLACE)}, False


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
