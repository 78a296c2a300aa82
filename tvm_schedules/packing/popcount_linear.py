"""Masks of ternary linear layers that count bits, and how their inputs' bits are grouped (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

from tvm_schedules.packing.bitplanes import WORD

__all__ = ["CHUNK", "groups_of", "pack"]

CHUNK = WORD * WORD
"""Inputs that are packed together: bit j of byte i is input ``8 * j + i``, so that no lane leaves its place."""


def groups_of(inputs: int) -> int:
    """Eights of inputs, in whole chunks."""
    return -(-inputs // CHUNK) * WORD


def pack(codes: np.ndarray, vector: int, tile: int) -> dict[str, np.ndarray]:
    """Lays codes out by register block (numpy; runs when a library is loaded).

    Bytes of a vector alternate between its first and its second half of output channels, because sums of bytes are
    widened as even and odd ones.

    Args:
        codes: int8 ``[terms, O, K]``.
        vector: Bytes a vector.
        tile: Vectors a block.

    Returns:
        ``masks`` uint8 ``[steps, tile, 2, vector]``, ``inputs`` int32 ``[steps + 1]`` (which eight inputs) and
        ``bounds`` int32 ``[blocks * terms + 1]``.
    """
    terms, outputs, inputs = codes.shape
    blocks, groups = -(-outputs // (vector * tile)), groups_of(inputs)
    full = np.zeros((terms, blocks * tile * vector, groups * WORD), np.int8)
    full[:, :outputs, :inputs] = codes
    # Bit j of byte i of a chunk is input 8 * j + i.
    parts = full.reshape(terms, blocks, tile, 2, vector // 2, groups // WORD, WORD, WORD)
    bits = (1 << np.arange(WORD))[:, None]
    masks = np.stack([((parts == sign) * bits).sum(6) for sign in (1, -1)])  # [sign, t, block, tile, half, lane, c, i]
    masks = masks.transpose(2, 1, 6, 7, 3, 0, 5, 4).reshape(blocks * terms, groups, tile, 2, vector)
    used = masks.any((2, 3, 4))
    return {
        "masks": masks[used].astype(np.uint8),
        "inputs": np.concatenate([np.nonzero(used)[1], [0]]).astype(np.int32),
        "bounds": np.concatenate([[0], np.cumsum(used.sum(1))]).astype(np.int32),
    }
