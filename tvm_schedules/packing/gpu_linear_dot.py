"""Weights of linear layers by dot products on graphics processors (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

__all__ = ["pack"]


def pack(values: np.ndarray, ternary: bool, lanes: int, vector: int, rows: int) -> np.ndarray:
    """Packs ``values [O, K]`` for the kernel (numpy; runs when an artifact is loaded).

    Word ``n`` of a row holds the inputs ``16 n`` to ``16 n + 15``, four of them in the same two bits of its bytes
    (8-bit weights: ``4 n`` to ``4 n + 3``). The words that ``lanes`` threads read at once are put side by side.

    Returns:
        uint32 ``[rows, steps, lanes, vector]``; what is past the ends counts as zero.
    """
    outputs, inputs = values.shape
    codes, plus = (16, 1) if ternary else (4, 128)
    steps = -(-inputs // (codes * lanes * vector))
    full = np.full((rows, steps * lanes * vector * codes), plus, np.uint8)
    full[:outputs, :inputs] = values.astype(np.int16) + plus
    quads = full.reshape(rows, steps, vector, lanes, codes // 4, 4)
    if ternary:
        quads = quads[..., 0, :] | quads[..., 1, :] << 2 | quads[..., 2, :] << 4 | quads[..., 3, :] << 6
    else:
        quads = quads[..., 0, :]
    words = np.ascontiguousarray(quads).view("<u4")[..., 0]
    return np.ascontiguousarray(words.transpose(0, 1, 3, 2))
