"""Weights of a recurrent layer's hidden state: the gates of an output side by side (numpy; runs at load)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["pack"]


def pack(values: Sequence[np.ndarray], gates: int, dtype: str, padded: int) -> np.ndarray:
    """Lays the weights out as ``[directions, H inputs, gates, padded]``.

    Args:
        values: ``[gates * H, H]`` for every direction.
        gates: How many there are.
        dtype: Type of the elements.
        padded: ``H`` rounded up to whole vectors.
    """
    hidden = values[0].shape[1]
    out = np.zeros((len(values), hidden, gates, padded), dtype)
    for direction, one in enumerate(values):
        out[direction, :, :, :hidden] = one.reshape(gates, hidden, hidden).transpose(2, 0, 1)
    return out
