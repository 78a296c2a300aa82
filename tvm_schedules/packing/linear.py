"""Weights of linear layers with output channels side by side (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

__all__ = ["pack"]


def pack(values: np.ndarray, dtype: str, padded: int, width: int) -> np.ndarray:
    """Lays ``values [O, K]`` out by blocks of output channels, which are contiguous (numpy; runs at load).

    Args:
        values: Codes or weights.
        dtype: Of the result.
        padded: Output channels, with those past the end, which are zero.
        width: Output channels a block; ``padded`` for one block.

    Returns:
        ``[padded / width, K, width]``.
    """
    full = np.zeros((padded, values.shape[1]), dtype)
    full[: values.shape[0]] = values
    return np.ascontiguousarray(full.reshape(padded // width, width, -1).transpose(0, 2, 1))
