"""Expands ternary codes into the lists of offsets that sparse kernels add up (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.ir.ternary_tensor import TernaryTensor

__all__ = ["addresses", "pack", "signs_apart", "split_levels", "taps_limit"]


def split_levels(weight: TernaryTensor) -> tuple[np.ndarray, np.ndarray]:
    """Codes ``[terms, ...]`` and levels ``[terms, O]``; a term with unequal levels becomes two."""
    full = weight.per_channel
    codes, levels = [], []
    for t, (positive, negative) in enumerate(zip(full.positive, full.negative, strict=True)):
        if np.array_equal(positive, negative):
            codes.append(full.codes[t])
            levels.append(positive)
        else:
            codes += [np.maximum(full.codes[t], 0), np.minimum(full.codes[t], 0)]
            levels += [positive, negative]
    return np.stack(codes), np.stack(levels).astype(np.float32)


def signs_apart(codes: np.ndarray) -> bool:
    """Whether :func:`split_levels` made the codes ``[2, ...]`` of one term: what is added, and what is taken away."""
    return len(codes) == 2 and bool((codes[0] >= 0).all() and (codes[1] <= 0).all())


def taps_limit(x: Halo, largest: int = 255) -> int:
    """Taps of one sign in a segment at most: what 16-bit sums of values up to ``largest`` hold; float has no limit."""
    return 32767 // largest if x.dtype == "uint8" else 1 << 30


def addresses(window: Window, x: Halo) -> np.ndarray:
    """Where the pixels of every tap of a row of weights begin, int64 ``[C / groups * taps]``, in the first group."""
    table = np.array([x.offset(0, phase, shift) for phase, shift in window.taps()], np.int64)
    fan = x.channels // window.groups
    return (np.arange(fan)[:, None] * (x.phases * x.plane) + table).ravel()


def pack(
    codes: np.ndarray, levels: np.ndarray, window: Window, x: Halo, limit: int, index: str = "int32", share: int = 1
) -> dict[str, np.ndarray]:
    """Expands ternary codes into the kernel's lists (numpy; runs when a library is loaded).

    Args:
        codes: int8 ``[terms, O, C / groups, kd, kh, kw]``.
        levels: float32 ``[terms, O]``: each term's level relative to the epilogue's scale; all 1 for a single term.
        window: Geometry.
        x: Layout of the input.
        limit: Taps of one sign that a segment may have at most.
        index: Type of the offsets.
        share: Rows a job. These come in the order of their lengths: where loops end like the last ones, the CPU
            foresees it.

    Returns:
        ``offsets`` (sorted by address in each run), ``bounds`` int32 ``[2 * segments + 1]`` (begin of the
        additions and of the subtractions of each segment), ``row`` int32 ``[O + 1]`` (first segment of each row),
        ``level`` float32 ``[segments]``, ``order`` int32 ``[O]`` (which row each of these is). Where one term has
        unequal levels, every row has a segment for either.
    """
    terms, rows, fan = codes.shape[:3]
    table = addresses(window, x)
    per_channel = x.phases * x.plane
    offsets: list[np.ndarray] = []
    counts: list[int] = []
    row, level = [0], []
    flat, apart = codes.reshape(terms, rows, -1), signs_apart(codes)
    job = np.arange(rows) // share
    order = np.lexsort(((flat < 0).sum((0, 2)), (flat > 0).sum((0, 2)), job))
    for o in order:
        first = (o * window.groups // rows) * fan
        address = first * per_channel + table
        for t in range(terms):
            plus, minus = np.sort(address[flat[t, o] > 0]), np.sort(address[flat[t, o] < 0])
            if t and not len(plus) and not len(minus) and not apart:
                continue
            pieces = max(1, -(-max(len(plus), len(minus)) // limit))
            for part_plus, part_minus in zip(np.array_split(plus, pieces), np.array_split(minus, pieces), strict=True):
                offsets += [part_plus, part_minus]
                counts += [len(part_plus), len(part_minus)]
                level.append(levels[t, o])
        row.append(len(level))
    return {
        "offsets": np.concatenate([*offsets, [0]]).astype(index),
        "bounds": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        "row": np.array(row, np.int32),
        "level": np.array(level, np.float32),
        "order": order.astype(np.int32),
    }
