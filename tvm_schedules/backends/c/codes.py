"""Ternary weights as bytes: five a byte, or one byte for every weight that is not zero, whichever is shorter.

``source/codes.c`` says how they are read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tvm_schedules.ir.ternary_codec import distances

__all__ = ["encode", "gaps", "trits"]

Codes = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]

_POWERS = np.array([81, 27, 9, 3, 1])


def trits(rows: Codes) -> Bytes:
    """Five weights a byte; every row starts with a byte of its own, and zero weights fill its last one.

    With ``v`` the number whose base-3 digits are weight + 1, the byte is ``ceil(v * 256 / 243)``: times 3, the first
    digit stands above bit 8, and what is left below gives the next in the same way.

    Args:
        rows: ``[rows, n]`` of -1, 0, 1.

    Example:
        >>> trits(np.int8([[1, 0, -1, 0, 1]])).tolist()
        [205]
    """
    digits = np.pad(rows.astype(np.int64), ((0, 0), (0, -rows.shape[1] % 5))) + 1
    values = digits.reshape(rows.shape[0], -1, 5) @ _POWERS
    return ((values * 256 + 242) // 243).astype(np.uint8).ravel()


def gaps(rows: Codes) -> Bytes:
    """Distances between the weights +1, a zero, distances between the weights -1, a zero; for every row.

    The first distance counts from one before the row. 255 goes on by 254 without a weight.

    Example:
        >>> gaps(np.int8([[0, 1, 1, -1]])).tolist()
        [2, 1, 0, 4, 0]
    """
    parts = []
    for row in rows:
        for sign in (1, -1):
            parts += [distances(np.flatnonzero(row == sign)), np.zeros(1, np.uint8)]
    return np.concatenate(parts)


def encode(rows: Codes) -> tuple[Bytes, bool]:
    """The shorter of the two codes, and whether it is :func:`gaps`."""
    nonzero = int(np.count_nonzero(rows))
    five = trits(rows)
    if nonzero + 2 * len(rows) >= len(five):
        return five, False
    sparse = gaps(rows)
    return (sparse, True) if len(sparse) < len(five) else (five, False)
