"""Ternary codes packed into the words of masks that go with bit planes (numpy; runs at load).

A word is eight weights of one row and tap: two masks, of those to add and of those to subtract. Words without a
weight are left out.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from tvm_schedules.ir.layout import Halo, Window

__all__ = ["WORD", "masks_of", "pack", "planes_of"]

WORD = 8
"""How many channels share a word, a bit each."""


def planes_of(x: Halo, groups: int, top: int) -> Halo:
    """The layout of the bit planes of pixels up to ``top``."""
    return replace(x, channels=groups * -(-(x.channels // groups) // WORD) * top.bit_length(), fill=0.0)


def masks_of(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the additions and subtractions of codes ``[terms, O, C / groups, ...]``: ``[terms, O, words, taps]``."""
    terms, rows, fan = codes.shape[:3]
    per_group = -(-fan // WORD)
    flat = np.zeros((terms, rows, per_group * WORD, prod(codes.shape[3:])), np.int8)
    flat[:, :, :fan] = codes.reshape(terms, rows, fan, -1)
    parts = flat.reshape(terms, rows, per_group, WORD, -1)
    bits = (1 << np.arange(WORD))[:, None]
    plus, minus = (((parts == sign) * bits).sum(3) for sign in (1, -1))
    return plus, minus


def pack(
    codes: np.ndarray, levels: np.ndarray, window: Window, packed: Halo, planes: int, limit: int
) -> dict[str, np.ndarray]:
    """Packs ternary codes into the kernel's words (numpy; runs when a library is loaded).

    Args:
        codes: int8 ``[terms, O, C / groups, kd, kh, kw]``.
        levels: float32 ``[terms, O]``: each term's level relative to the epilogue's scale; all 1 for a single term.
        window: Geometry.
        packed: Layout of the bit planes.
        planes: Bit planes.
        limit: Words that a segment may have at most.

    Returns:
        ``offsets`` int32 of the first plane of every word with weights, ``masks`` uint32 (additions and subtractions
        of every word, each a byte four times), ``bounds`` int32 ``[segments + 1]``, ``row`` int32 ``[O + 1]``,
        ``level`` float32 ``[segments]``.
    """
    terms, rows, fan = codes.shape[:3]
    per_group = -(-fan // WORD)
    plus, minus = masks_of(codes)
    table = np.array([packed.offset(0, phase, shift) for phase, shift in window.taps()], np.int64)
    step = packed.phases * packed.plane * planes
    offsets: list[np.ndarray] = []
    chosen: list[np.ndarray] = []
    bounds, row, level = [0], [0], []
    for o in range(rows):
        start = (o * window.groups // rows) * per_group
        address = (np.arange(per_group) + start)[:, None] * step + table
        for t in range(terms):
            used = (plus[t, o] | minus[t, o]) != 0
            count = int(used.sum())
            if t and not count:
                continue
            order = np.argsort(address[used], kind="stable")
            both = np.stack([plus[t, o][used], minus[t, o][used]], 1)[order]
            pieces = max(1, -(-count // limit))
            for where, mask in zip(
                np.array_split(address[used][order], pieces), np.array_split(both, pieces), strict=True
            ):
                offsets.append(where)
                chosen.append(mask)
                bounds.append(bounds[-1] + len(where))
                level.append(levels[t, o])
        row.append(len(level))
    return {
        "offsets": np.concatenate([*offsets, [0]]).astype(np.int32),
        "masks": (np.concatenate([*chosen, [[0, 0]]]).astype(np.uint32) * np.uint32(0x01010101)).ravel(),
        "bounds": np.array(bounds, np.int32),
        "row": np.array(row, np.int32),
        "level": np.array(level, np.float32),
    }
