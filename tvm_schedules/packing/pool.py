"""Divisors of average pooling (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

from tvm_schedules.ir.layout import Halo, Window

__all__ = ["divisors"]


def divisors(x: Halo, window: Window, size: tuple[int, int, int], length: int, include_pad: bool) -> np.ndarray:
    """1 / (pixels that the window at each of ``length`` elements counts), float32 (numpy; runs at load)."""
    counts = np.zeros(size, np.int64)
    padded = np.pad(np.ones(x.dims, np.int64), window.pads, constant_values=int(include_pad))
    grid = np.ix_(*(np.arange(n) * s for n, s in zip(size, window.strides, strict=True)))
    for index in np.ndindex(*window.kernel):
        at = tuple(g + i * d for g, i, d in zip(grid, index, window.dilations, strict=True))
        counts += padded[at]
    out = np.ones(length, np.float32)
    d, h, w = (np.arange(n) for n in size)
    sd, sh, sw = x.steps()
    out[(d[:, None, None] * sd + h[:, None] * sh + w * sw).ravel()] = 1.0 / counts.ravel()
    return out
