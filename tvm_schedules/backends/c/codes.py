"""Ternary weights as bytes: five or four a byte, or one byte for every weight that is not zero.

``source/codes.c`` says how those of convolutions are read, ``source/linear_codes.c`` those of linear layers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["WINDOW", "encode", "fours", "gaps", "lists", "places", "trits"]

Codes = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]

FAR = 255
"""The longest distance that one byte holds."""
LONGER = 1.25
"""Gaps are read several times faster than trits, which is worth a quarter more bytes."""

WINDOW = 256
"""Weights that one byte tells apart."""

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


def lists(rows: Codes) -> Bytes | None:
    """Places of the weights +1 and -1 in every row, :data:`WINDOW` weights after the other.

    For each window: the number of weights +1, their places, the number of weights -1, and theirs.

    Returns:
        None where some number is not below :data:`WINDOW`, or where two bits for every weight are shorter.

    Example:
        >>> lists(np.int8([[0, 1, 0, 0, 0, 0, 0, 1, -1] + 24 * [0]])).tolist()
        [2, 1, 7, 1, 8]
    """
    windows = -(-rows.shape[1] // WINDOW)
    length = int(np.count_nonzero(rows)) + 2 * windows * len(rows)
    if length > len(rows) * -(-rows.shape[1] // 4):
        return None
    parts: list[int] = []
    for row in rows:
        for start in range(0, row.size, WINDOW):
            for sign in (1, -1):
                found = np.flatnonzero(row[start : start + WINDOW] == sign)
                if found.size >= WINDOW:
                    return None
                parts += [found.size, *found.tolist()]
    return np.array(parts, np.uint8)


def places(rows: Codes, inputs: npt.NDArray[np.integer], shifts: npt.NDArray[np.integer]) -> Bytes:
    """Four weights a byte, two bits of weight + 1 each; zeros fill a row's last group of bytes.

    Args:
        rows: ``[rows, n]`` of -1, 0, 1.
        inputs: ``[bytes of a group, 4]``, which of a group's inputs the weights of a byte belong to.
        shifts: ``[4]``, at which bits of the byte they stand.
    """
    group = inputs.size
    digits = np.pad(rows.astype(np.int64) + 1, ((0, 0), (0, -rows.shape[1] % group)))
    return (digits.reshape(rows.shape[0], -1, group)[:, :, inputs] << shifts).sum(-1).astype(np.uint8).ravel()


def fours(rows: Codes, bits: npt.NDArray[np.integer], apart: int, signed: bool) -> npt.NDArray[np.int32]:
    """Two words for eight inputs of four rows, the first one of rows 0 and 1; two bits of weight + 1 each.

    Args:
        rows: ``[rows, n]`` of -1, 0, 1.
        bits: ``[8]``, where in the word an input's weight for the even row is.
        apart: So many bits further, around the end of the word, is that for the odd row.
        signed: Whether the odd row's two bits are the weight itself.
    """
    wide = np.pad(rows.astype(np.int64), ((0, -rows.shape[0] % 4), (0, -rows.shape[1] % 8)))
    wide = wide.reshape(len(wide) // 4, 2, 2, -1, 8)  # groups of rows, words, rows of a word, groups of inputs, inputs
    even, odd = wide[:, :, 0] + 1, wide[:, :, 1] & 3 if signed else wide[:, :, 1] + 1
    words = ((even << bits) | (odd << (bits + apart) % 32)).sum(-1)
    return words.swapaxes(1, 2).astype(np.uint32).view(np.int32).ravel()
