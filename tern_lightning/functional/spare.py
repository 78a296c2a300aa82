"""Memory that is used again once nobody has the tensor in it any more."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tern_lightning.functional.blocks import forget, plain

LEAST = 1 << 16
"""Elements from which it pays: the C library keeps smaller blocks by itself."""
_ALL: weakref.WeakSet[SpareMemory] = weakref.WeakSet()
MOST = 2
"""Blocks that wait: of a weight and of its gradient, which is what a step of training has at a time."""


def release() -> None:
    """Give back all memory that waits to be used again, that of blocks in this thread too."""
    forget()
    for one in _ALL:
        one._waiting.clear()


class SpareMemory:
    """Float32 tensors of one shape after another, in memory that those before have left.

    A step of training makes every weight anew, and memory that the process has just got from the system costs several
    times the arithmetic. A tensor's memory comes back when the last that shares it is gone, views and what autograd
    keeps included, so a tensor that somebody holds is never written to.

    Example:
        >>> import torch
        >>> spare, like = SpareMemory(), torch.zeros(512, 512)
        >>> first = spare.empty_like(like)
        >>> address, view = first.data_ptr(), first[0]
        >>> del first
        >>> spare.empty_like(like).data_ptr() == address
        False
        >>> del view
        >>> spare.empty_like(like).data_ptr() == address
        True
    """

    def __init__(self) -> None:
        self._waiting: list[Tensor] = []
        _ALL.add(self)

    def empty_like(self, tensor: Tensor) -> Tensor:
        """A float32 tensor of the shape, device and layout of another one, with any values."""
        if tensor.numel() < LEAST or not tensor.is_contiguous() or not plain(tensor):
            return torch.empty_like(tensor, dtype=torch.float32)
        try:
            block = self._waiting.pop()
        except IndexError:
            block = torch.empty(0)
        if block.numel() != tensor.numel():
            block = torch.empty(tensor.numel())
        # The tensor's storage holds this array, and nobody else does.
        array: np.ndarray[Any, Any] = block.numpy().reshape(tensor.shape)
        weakref.finalize(array, self._take_back, block).atexit = False
        return torch.from_numpy(array)

    def _take_back(self, block: Tensor) -> None:
        if len(self._waiting) < MOST:
            self._waiting.append(block)

    def __reduce__(self) -> tuple[type[SpareMemory], tuple[()]]:
        """Copies begin without any."""
        return SpareMemory, ()
