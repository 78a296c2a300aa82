"""Ternary weights as bytes: five a byte, or one byte for every weight that is not zero.

``source/codes.c`` says how they are read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["encode", "gaps", "trits"]

Codes = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]

FAR = 255
"""The longest distance that one byte holds."""
LONGER = 1.25
"""Gaps are read several times faster than trits, which is worth a quarter more bytes."""

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
    """Distances between the weights +1, two zeros, distances between the weights -1, two zeros; for every row.

    The first distance counts from one before the row. A zero and a number go on by that number without a weight.

    Example:
        >>> gaps(np.int8([[0, 1, 1, -1]])).tolist()
        [2, 1, 0, 0, 4, 0, 0]
    """
    parts: list[int] = []
    for row in rows:
        for sign in (1, -1):
            for step in np.diff(np.flatnonzero(row == sign), prepend=-1).tolist():
                while step > FAR:
                    parts += [0, FAR]
                    step -= FAR
                parts.append(step)
            parts += [0, 0]
    return np.array(parts, np.uint8)


def encode(rows: Codes) -> tuple[Bytes, bool]:
    """One of the two codes, and whether it is :func:`gaps`: these where they take up to :data:`LONGER` as much."""
    nonzero = int(np.count_nonzero(rows))
    five = trits(rows)
    if nonzero + 4 * len(rows) > LONGER * len(five):
        return five, False
    sparse = gaps(rows)
    return (sparse, True) if len(sparse) <= LONGER * len(five) else (five, False)
