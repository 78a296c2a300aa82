"""Dense convolution weights blocked by output channels (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

from tvm_schedules.ir.layout import Halo, Window

__all__ = ["pack"]


def pack(
    values: np.ndarray, window: Window, x: Halo, tile: int, dtype: str, pairs: bool = False
) -> dict[str, np.ndarray]:
    """Lays weights ``[O, C / groups, kd, kh, kw]`` out by register block (numpy; runs when a library is loaded).

    Args:
        values: The weights.
        window: Geometry.
        x: Layout of the input.
        tile: Output channels a block.
        dtype: Of the packed weights.
        pairs: Whether the weights of two taps, int16, are side by side in an int32.

    Returns:
        ``values`` of type ``dtype`` ``[groups, blocks, fan * taps, tile]`` (rows past the end are zero) and ``offsets``
        int32 ``[fan * taps]`` of the first group. With pairs, int32 ``[groups, blocks, pairs, tile]`` and offsets of
        whole pairs: where one has a single tap, its place stands twice, and the weight there is zero.
    """
    rows, fan = values.shape[:2]
    per_group = rows // window.groups
    blocks = -(-per_group // tile)
    flat = values.reshape(window.groups, per_group, -1).astype(dtype)
    padded = np.zeros((window.groups, blocks * tile, flat.shape[2]), dtype)
    padded[:, :per_group] = flat
    blocked = padded.reshape(window.groups, blocks, tile, -1).transpose(0, 1, 3, 2)
    offsets = [x.offset(c, phase, shift) for c in range(fan) for phase, shift in window.taps()]
    if pairs:
        odd = len(offsets) % 2
        offsets += offsets[-1:] * odd
        blocked = np.pad(blocked, ((0, 0), (0, 0), (0, odd), (0, 0)))
        paired = blocked.reshape(window.groups, blocks, -1, 2, tile).transpose(0, 1, 2, 4, 3)
        blocked = np.ascontiguousarray(paired, np.int16).view(np.int32)[..., 0]
    return {"values": np.ascontiguousarray(blocked), "offsets": np.array(offsets, np.int32)}
