"""Weights of convolutions by dot products on graphics processors (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

from tvm_schedules.ir.layout import Halo, Window

__all__ = ["pack"]


def pack(values: np.ndarray, window: Window, x: Halo, tile: int, slices: int, plus: int) -> dict[str, np.ndarray]:
    """Lays ``values [O, C / groups, kd, kh, kw]`` out for the kernel (numpy; runs when an artifact is loaded).

    Returns:
        ``words`` uint32 ``[groups, blocks, quads, tile]``, four weights plus ``plus`` each, and ``offsets`` int32
        ``[quads * 4]`` of the first group; what is past the ends has weight zero and reads the first tap.
    """
    rows, fan = values.shape[:2]
    per_group = rows // window.groups
    blocks = -(-per_group // tile)
    flat = values.reshape(window.groups, per_group, -1)
    quads = -(-flat.shape[2] // (4 * slices)) * slices
    full = np.full((window.groups, blocks * tile, quads * 4), plus, np.uint8)
    full[:, :per_group, : flat.shape[2]] = flat.astype(np.int16) + plus
    quad = full.reshape(window.groups, blocks, tile, quads, 4).transpose(0, 1, 3, 2, 4)
    offsets = np.array([x.offset(c, phase, shift) for c in range(fan) for phase, shift in window.taps()], np.int32)
    padded = np.full(quads * 4, offsets[0], np.int32)
    padded[: offsets.size] = offsets
    return {"words": np.ascontiguousarray(quad).view("<u4")[..., 0], "offsets": padded}
