"""Weights of 8-bit convolutions by dot products, four taps side by side (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

from tvm_schedules.ir.layout import Halo, Window

__all__ = ["pack"]


def pack(values: np.ndarray, window: Window, x: Halo, tile: int) -> dict[str, np.ndarray]:
    """Lays int8 weights ``[O, C / groups, kd, kh, kw]`` out by register block (numpy; runs when a library is loaded).

    Returns:
        ``values`` int8 ``[groups, blocks, quads, tile, 4]``, zeros past the ends, and ``offsets`` int32 ``[quads * 4]``
        of the first group.
    """
    rows, fan = values.shape[:2]
    per_group = rows // window.groups
    blocks = -(-per_group // tile)
    offsets = [x.offset(c, phase, shift) for c in range(fan) for phase, shift in window.taps()]
    quads = -(-len(offsets) // 4)
    padded = np.zeros((window.groups, blocks * tile, quads * 4), np.int8)
    padded[:, :per_group, : len(offsets)] = values.reshape(window.groups, per_group, -1)
    blocked = padded.reshape(window.groups, blocks, tile, quads, 4).transpose(0, 1, 3, 2, 4)
    offsets += offsets[:1] * (quads * 4 - len(offsets))
    return {"values": np.ascontiguousarray(blocked), "offsets": np.array(offsets, np.int32)}
