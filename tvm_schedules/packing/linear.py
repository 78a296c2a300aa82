"""Weights of linear layers with output channels side by side (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

__all__ = ["pack"]


def pack(values: np.ndarray, dtype: str, padded: int) -> np.ndarray:
    """Lays ``values [O, K]`` out as ``[K, padded]``, output channels contiguous (numpy; runs at load)."""
    out = np.zeros((values.shape[1], padded), dtype)
    out[:, : values.shape[0]] = values.T
    return out
