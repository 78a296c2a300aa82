"""Weights of 3x3 convolutions by Winograd's F(4x4, 3x3) in integers (numpy; runs at load).

Four output pixels of three taps take six products of transformed pixels and weights (Lavin and Gray, "Fast Algorithms
for Convolutional Neural Networks", 2016). The rows of the usual transform of weights have denominators of 4, 6, 6, 24,
24 and 1. Each row is multiplied by its own here, so that transformed weights are integers, of at most 49 times the
weights. The transform of the outputs makes up for it: what it gives is :data:`SCALE` squared times the sums.
"""

from __future__ import annotations

import numpy as np

__all__ = ["LIMIT", "SCALE", "STEPS", "holds", "pack"]

STEPS = 6
"""Pixels a tile reads in a row: it writes two less."""
SCALE = 24
"""Factor of the sums that a transform of the outputs gives, in each of two dimensions."""
LIMIT = 1 << 25
"""Sums are smaller: computed modulo 2**32, 576 = 9 * 2**6 times the sum has 26 bits of it left."""
ROWS = np.array([[1, 0, 0], [-1, -1, -1], [-1, 1, -1], [1, 2, 4], [1, -2, 4], [0, 0, 1]], np.int64)


def holds(values: np.ndarray) -> bool:
    """Whether no sum of products of weights ``values [O, ...]`` and pixels from -128 to 127 reaches the limit."""
    return int(np.abs(values.reshape(len(values), -1).astype(np.int64)).sum(1).max(initial=0)) * 128 < LIMIT


def pack(values: np.ndarray, tile: int) -> np.ndarray:
    """Transforms weights and lays them out by blocks of output channels (numpy; runs when a library is loaded).

    Args:
        values: int8 ``[O, C, 1, 3, 3]``.
        tile: Output channels a block, and input channels a step.

    Returns:
        int16 ``[blocks, 36, C, tile]``, channels in whole steps; what is past the ends is zero.
    """
    rows, fan = values.shape[:2]
    blocks, room = -(-rows // tile), -(-fan // tile) * tile
    made = np.einsum("ik,ockl,jl->ijoc", ROWS, values.reshape(rows, fan, 3, 3).astype(np.int64), ROWS)
    full = np.zeros((STEPS * STEPS, blocks * tile, room), np.int16)
    full[:, :rows, :fan] = made.reshape(STEPS * STEPS, rows, fan)
    return np.ascontiguousarray(full.reshape(STEPS * STEPS, blocks, tile, room).transpose(1, 0, 3, 2))
