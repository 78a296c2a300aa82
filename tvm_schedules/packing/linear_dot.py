"""Weights of linear layers by dot products, ternary ones in two bits (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

__all__ = ["pack"]


def pack(values: np.ndarray, ternary: bool, lanes: int, tile: int, plus: int) -> np.ndarray:
    """Lays ``values [O, K]`` int8 out by register block (numpy; runs when a library is loaded).

    Args:
        values: Codes or 8-bit weights.
        ternary: Whether to pack four codes a byte.
        lanes: Output channels a vector.
        tile: Vectors a block.
        plus: Of every 16 inputs those to whose codes one is added before they are stored.

    Returns:
        uint8 or int8 ``[blocks, steps, tile, lanes, 4]``; what is past the ends counts as zero.
    """
    outputs, inputs = values.shape
    step = 16 if ternary else 4
    blocks, steps = -(-outputs // (lanes * tile)), -(-inputs // step)
    full = np.zeros((blocks * tile * lanes, steps * step), np.int8)
    full[:outputs, :inputs] = values + (np.arange(inputs) % 16 < plus)
    parts = full.reshape(blocks, tile, lanes, steps, step // 4, 4).transpose(4, 0, 3, 1, 2, 5)
    if not ternary:
        return np.ascontiguousarray(parts[0])
    bits = parts.astype(np.uint8) & 3
    return np.ascontiguousarray(bits[0] | bits[1] << 2 | bits[2] << 4 | bits[3] << 6)
