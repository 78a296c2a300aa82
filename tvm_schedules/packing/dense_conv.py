"""Dense convolution weights blocked by output channels (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

from tvm_schedules.ir.layout import Halo, Window

__all__ = ["pack"]


def pack(values: np.ndarray, window: Window, x: Halo, tile: int, dtype: str) -> dict[str, np.ndarray]:
    """Lays weights ``[O, C / groups, kd, kh, kw]`` out by register block (numpy; runs when a library is loaded).

    Returns:
        ``values`` of type ``dtype`` ``[groups, blocks, fan * taps, tile]`` (rows past the end are zero) and ``offsets``
        int32 ``[fan * taps]`` of the first group.
    """
    rows, fan = values.shape[:2]
    per_group = rows // window.groups
    blocks = -(-per_group // tile)
    flat = values.reshape(window.groups, per_group, -1).astype(dtype)
    padded = np.zeros((window.groups, blocks * tile, flat.shape[2]), dtype)
    padded[:, :per_group] = flat
    blocked = padded.reshape(window.groups, blocks, tile, -1).transpose(0, 1, 3, 2)
    offsets = [x.offset(c, phase, shift) for c in range(fan) for phase, shift in window.taps()]
    return {"values": np.ascontiguousarray(blocked), "offsets": np.array(offsets, np.int32)}
