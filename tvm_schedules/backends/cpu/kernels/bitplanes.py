"""Bit planes of activations of few bits, and the words of weights that go with them.

A byte of a plane holds one bit of eight neighboring channels of a pixel. A word of weights is eight weights of one
row and tap: two masks, of those to add and of those to subtract. Words without a weight are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.layout import Halo, Window

__all__ = ["WORD", "Pack", "emit", "masks_of", "planes_of", "words"]

WORD = 8
"""Channels a word."""


@dataclass(frozen=True)
class Pack:
    """Packing of one tensor.

    Args:
        x: Layout of the bytes.
        out: Layout of the bit planes: channel ``(group * words + word) * planes + plane``.
        groups: Groups of channels; words do not reach across them.
        vector: Bytes a vector register.
        parallel: Whether threads share the jobs.
    """

    x: Halo
    out: Halo
    groups: int
    vector: int
    parallel: bool

    @property
    def planes(self) -> int:
        """Bit planes."""
        return self.out.channels // (self.groups * self.words)

    @property
    def fan(self) -> int:
        """Channels a group."""
        return self.x.channels // self.groups

    @property
    def words(self) -> int:
        """Words a group."""
        return -(-self.fan // WORD)


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


def words(
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


def emit(spec: Pack) -> Any:
    """Makes the PrimFunc: ``x, out``. Whole planes are packed, halos included."""
    x, out, planes = spec.x, spec.out, spec.planes
    distance, size = x.phases * x.plane, spec.vector
    u8, u16 = f"uint8x{size}", f"uint16x{size // 2}"

    def body(e: Emitter, *pointers: Any) -> None:
        bx, bo = e.view(pointers[0], x.elements, "uint8"), e.view(pointers[1], out.elements, "uint8")

        def word(first: Any, target: Any, channels: int) -> None:
            with e.loop(distance // size) as i:
                pixels = [e.bits(e.load(bx, first + (j * distance + i * size), size), u16) for j in range(channels)]
                for b in range(planes):
                    total: Any = None
                    for j, value in enumerate(pixels):
                        bit = value & e.const(0x0101 << b, u16)
                        shift = e.const(abs(j - b), u16)
                        bit = bit << shift if j > b else bit >> shift if j < b else bit
                        total = bit if total is None else total | bit
                    e.store(bo, target + (b * distance + i * size), e.bits(total, u8), size)

        with e.jobs(x.batch * spec.groups * spec.words, spec.parallel) as job:
            group, w = job // spec.words, job % spec.words
            first, target = (group * spec.fan + w * WORD) * distance, job * (planes * distance)
            last = spec.fan - (spec.words - 1) * WORD
            if spec.words > 1:
                with e.when(w < spec.words - 1):
                    word(first, target, WORD)
            with e.when(w == spec.words - 1):
                word(first, target, last)

    return kernel_function([("x", "uint8"), ("out", "uint8")], body)
