"""Memory that compiled code reads and writes: numpy arrays at addresses that vector loads can use."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ALIGNMENT", "aligned", "zeros"]

Array = npt.NDArray[Any]
ALIGNMENT = 64
"""Bytes of a cache line, and of the widest vector register."""


def aligned(size: int, fill: int = 0) -> Array:
    """A uint8 array of ``size`` bytes that starts at a multiple of 64."""
    # Zeros take no memory until they are used: a size that a file asks for may be too large for this machine.
    raw = np.full(size + ALIGNMENT, fill, np.uint8) if fill else np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]


def zeros(shape: tuple[int, ...], dtype: str) -> Array:
    """An aligned array of zeros."""
    count = int(np.prod(shape, dtype=np.int64))
    return aligned(count * np.dtype(dtype).itemsize).view(dtype).reshape(shape)
