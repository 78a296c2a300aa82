"""Weights of linear layers with inputs side by side, ternary ones in two bits (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

__all__ = ["pack", "step_of"]


def step_of(ternary: bool) -> int:
    """Inputs whose weights are in 16 bytes."""
    return 64 if ternary else 16


def pack(values: np.ndarray, ternary: bool, tile: int) -> np.ndarray:
    """Lays ``values [O, K]`` int8 out by blocks of output channels (numpy; runs when a library is loaded).

    Args:
        values: Codes or 8-bit weights.
        ternary: Whether to pack four codes a byte, of inputs that are 16 apart.
        tile: Output channels a block.

    Returns:
        uint8 or int8 ``[blocks, steps, tile, 16]``; what is past the ends is zero.
    """
    outputs, inputs = values.shape
    blocks, steps = -(-outputs // tile), -(-inputs // step_of(ternary))
    full = np.zeros((blocks * tile, steps * step_of(ternary)), np.int8)
    full[:outputs, :inputs] = values
    parts = full.reshape(blocks, tile, steps, -1, 16).transpose(3, 0, 2, 1, 4)
    if not ternary:
        return np.ascontiguousarray(parts[0])
    bits = parts.astype(np.uint8) & 3
    return np.ascontiguousarray(bits[0] | bits[1] << 2 | bits[2] << 4 | bits[3] << 6)
