"""Weights of linear layers by products of pairs of bytes, ternary ones in two bits (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

__all__ = ["LANES", "pack", "step_of"]

LANES = 8
"""Output channels a vector."""


def step_of(ternary: bool) -> int:
    """Inputs whose weights are in one vector."""
    return 16 if ternary else 2


def pack(values: np.ndarray, ternary: bool, tile: int) -> np.ndarray:
    """Lays ``values [O, K]`` int8 out by register blocks (numpy; runs when a library is loaded).

    Args:
        values: Codes or 8-bit weights.
        ternary: Whether to pack the codes of four inputs that are four apart in a byte, each plus one.
        tile: Vectors of output channels a block.

    Returns:
        uint8 ``[blocks, steps, tile, 8, 4]`` or int8 ``[blocks, steps, tile, 8, 2]``; what is past the ends is zero.
    """
    outputs, inputs = values.shape
    step = step_of(ternary)
    blocks, steps = -(-outputs // (LANES * tile)), -(-inputs // step)
    full = np.zeros((blocks * tile * LANES, steps * step), np.int8)
    full[:outputs, :inputs] = values + int(ternary)
    beside = 4 if ternary else 2
    parts = full.reshape(blocks, tile, LANES, steps, step // beside, beside).transpose(4, 0, 3, 1, 2, 5)
    if not ternary:
        return np.ascontiguousarray(parts[0])
    bits = parts.astype(np.uint8)
    return np.ascontiguousarray(bits[0] | bits[1] << 2 | bits[2] << 4 | bits[3] << 6)
