"""The lists of taps that several output channels share (numpy; runs at load).

Output channels are taken ``size`` at a time, and what their codes are at one tap, -1, 0 or 1 each, is that tap's
pattern: as digits of base three it is a number, and the opposite signs are the opposite number. All taps of one
pattern are in one list, those of the opposite signs in the list to subtract. So few lists stand for the codes of all
channels: The Mailman Algorithm: A Note on Matrix-Vector Multiplication (2009) does that with the columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

__all__ = ["END", "Work", "digits", "members", "pack", "pack_bounded", "used", "work"]


END = {"uint16": 65535, "int32": -1}
"""By type of the offsets, what stands behind a list."""


class Work(NamedTuple):
    """What the patterns of a layer cost.

    Attributes:
        taps: Pixels that are added up.
        joins: Sums of lists that are added to those of channels.
        lists: Lists that are not empty.
    """

    taps: int
    joins: int
    lists: int


def digits(pattern: int, size: int) -> tuple[int, ...]:
    """The codes of the channels of a pattern.

    >>> digits(8, 3)
    (-1, 0, 1)
    """
    found = []
    for _ in range(size):
        digit = (pattern + 1) % 3 - 1
        found.append(digit)
        pattern = (pattern - digit) // 3
    return tuple(found)


def members(codes: np.ndarray, size: int, parts: int = 1) -> np.ndarray:
    """Which output channels are taken together.

    Neighbors are, unless channels with their zeros at the same places are further apart.

    Args:
        codes: ``[O, taps]``; what is not 0 counts.
        size: Channels a group.
        parts: Groups of a grouped convolution, in which channels stay; of more than one, ``size`` divides a part.

    Returns:
        int32 ``[groups, size]``; where channels are missing, the last one stands for them, and is not first there.
    """
    rows, found = len(codes), []
    part = np.arange(rows) // (rows // parts)
    for order in (np.arange(rows), np.lexsort([*(codes != 0).T, part])):
        found.append(np.append(order, np.repeat(order[-1:], -rows % size)).reshape(-1, size).astype(np.int32))
    return min(found, key=lambda groups: int((codes[groups] != 0).any(1).sum()))


def _numbers(codes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The patterns int64 ``[groups, taps]``, negative where the opposite signs' are."""
    base = 3 ** np.arange(groups.shape[1])
    return np.stack([np.einsum("kt,k->t", codes[group].astype(np.int64), base) for group in groups])


def used(codes: np.ndarray, groups: np.ndarray) -> tuple[int, ...]:
    """The patterns that any of the groups has in any term of ``codes``, ``[terms, O, taps]``, in ascending order."""
    found = np.concatenate([np.unique(np.abs(_numbers(term, groups))) for term in codes])
    return tuple(int(number) for number in np.unique(found) if number)


def work(codes: np.ndarray, groups: np.ndarray, limit: int) -> Work:
    """What the patterns cost; see :func:`members` and :func:`pack` for the arguments."""
    size = groups.shape[1]
    total, most = np.zeros(3, np.int64), 3**size // 2
    weights = np.array([np.count_nonzero(digits(pattern, size)) for pattern in range(most + 1)])
    for term in codes:
        for group, numbers in zip(groups, _numbers(term, groups), strict=True):
            taps = np.flatnonzero(numbers)
            segment, number = _segments(term[group][:, taps], limit), numbers[taps]
            lists = np.unique(segment * (2 * most + 1) + number + most)
            sums = np.unique(segment * (most + 1) + np.abs(number)) % (most + 1)
            total += [len(taps), weights[sums].sum(), len(lists)]
    return Work(*(int(number) for number in total))


def pack(
    codes: np.ndarray,
    levels: np.ndarray,
    address: np.ndarray,
    groups: np.ndarray,
    limit: int,
    index: str,
    shift: int = 0,
    parts: int = 1,
) -> dict[str, np.ndarray]:
    """Expands ternary codes into the lists of the CPU's kernel.

    Args:
        codes: int8 ``[terms, O, taps]``, not all zeros.
        levels: float32 ``[terms, O]``.
        address: int64 ``[taps]``, where the pixels of every tap begin.
        groups: See :func:`members`.
        limit: Taps of one sign that a segment may have at most in any channel.
        index: Type of the offsets.
        shift: How much further the pixels of the next part begin.
        parts: See :func:`members`.

    Returns:
        ``offsets``: for every segment and each of the patterns :func:`used` of all terms, the taps to add and those to
        subtract, sorted, with :data:`END` behind either; ``starts`` int32 ``[segments]``, where a segment begins in
        there; ``first`` int32 ``[groups + 1]``, the first segment of each group; ``members`` int32
        ``[groups * size]``; ``levels`` float32 ``[segments * size]``, those of a segment's channels.
    """
    rows, patterns = codes.shape[1], used(codes, groups)
    lists, offsets, starts, first, level = 2 * len(patterns), [], [np.zeros(1, np.int64)], [0], []
    for made in zip(groups, *(_lists(term, address, groups, limit, patterns) for term in codes), strict=True):
        group, segments = made[0], 0
        beyond = int(group[0]) * parts // rows * shift
        for t, (found, counts) in enumerate(made[1:]):
            if t and not len(found):
                continue
            behind = np.cumsum(counts)
            offsets.append(np.insert(found + beyond, behind, END[index]))
            starts.append(behind[lists - 1 :: lists] + lists * np.arange(1, len(counts) + 1) + starts[-1][-1])
            level.append(np.tile(levels[t][group], len(counts)))
            segments += len(counts)
        first.append(first[-1] + segments)
    return {
        "offsets": np.concatenate(offsets).astype(index),
        "starts": np.concatenate(starts)[:-1].astype(np.int32),
        "first": np.array(first, np.int32),
        "members": groups.ravel().astype(np.int32),
        "levels": np.concatenate(level).astype(np.float32),
    }


def pack_bounded(codes: np.ndarray, address: np.ndarray, groups: np.ndarray, index: str) -> dict[str, np.ndarray]:
    """Expands ternary codes into the lists of graphics processors, whose sums have 32 bits.

    Args:
        codes: int8 ``[O, taps]``, not all zeros.
        address: int64 ``[taps]``, where the pixels of every tap begin.
        groups: See :func:`members`.
        index: Type of the offsets.

    Returns:
        ``offsets``: for every group and each of the patterns :func:`used`, the taps to add and those to subtract,
        sorted; ``bounds`` int32 ``[groups * 2 * patterns + 1]``, where these lists begin; ``members`` int32
        ``[groups * size]``.
    """
    lists = _lists(codes, address, groups, codes.shape[1], used(codes[None], groups))
    found, counts = zip(*lists, strict=True)
    return {
        "offsets": np.concatenate(found).astype(index),
        "bounds": np.append(0, np.cumsum(np.concatenate(counts))).astype(np.int32),
        "members": groups.ravel().astype(np.int32),
    }


def _lists(
    codes: np.ndarray, address: np.ndarray, groups: np.ndarray, limit: int, patterns: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The lists of every group: their addresses one after the other, and their lengths ``[segments, 2 * patterns]``."""
    order = np.argsort(address, kind="stable")
    codes, address = codes[:, order], address[order]
    lists, known = 2 * len(patterns), np.array(patterns, np.int64)
    for group, numbers in zip(groups, _numbers(codes, groups), strict=True):
        taps = np.flatnonzero(numbers)
        segment = _segments(codes[group][:, taps], limit)
        number = int(segment[-1]) + 1 if len(segment) else 1
        run = segment * lists + 2 * np.searchsorted(known, np.abs(numbers[taps])) + (numbers[taps] < 0)
        counts = np.bincount(run, minlength=number * lists).reshape(number, lists)
        yield address[taps[np.argsort(run, kind="stable")]], counts


def _segments(codes: np.ndarray, limit: int) -> np.ndarray:
    """Which segment each tap belongs to: ever the next one where a channel would have more of one sign than ``limit``.

    Args:
        codes: int8 ``[channels, taps]``, by address.
        limit: At least 1.
    """
    total = np.cumsum(np.concatenate([codes > 0, codes < 0]), axis=1)
    segment = np.zeros(codes.shape[1], np.int64)
    begin, before = 0, np.zeros(len(total), np.int64)
    while begin < codes.shape[1]:
        # The first tap with which some sum has too many.
        end = min(
            int(np.searchsorted(row, done + limit, side="right")) for row, done in zip(total, before, strict=True)
        )
        segment[end:] += 1
        begin, before = end, total[:, end - 1]
    return segment
