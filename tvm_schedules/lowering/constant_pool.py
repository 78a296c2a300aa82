"""The constants of a network while it is lowered: stored arrays, how they are expanded, and their places in memory."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np

from tvm_schedules.ir.layout import ALIGN
from tvm_schedules.ir.plan import Constant, Span
from tvm_schedules.lowering.steps import Buffer, Place

__all__ = ["Constants"]


class Constants:
    """Collects stored arrays and the packings that expand them.

    Attributes:
        arrays: What is stored, by name.
        entries: How the constant memory is made of it.
        nbytes: Bytes of that memory so far.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.entries: list[Constant] = []
        self.nbytes = 0
        self._shared: dict[tuple[Any, ...], list[Buffer]] = {}

    def make(self, packing: str, arrays: dict[str, np.ndarray], params: dict[str, Any]) -> dict[str, np.ndarray]:
        """Expands arrays into what the kernels read."""
        from tvm_schedules.packing.registry import PACKINGS

        return PACKINGS[packing](arrays, params)

    def add(
        self, prefix: str, packing: str, arrays: dict[str, np.ndarray], params: dict[str, Any] | None = None
    ) -> dict[str, Buffer]:
        """Stores arrays under ``prefix.name`` and returns a buffer for every array that the packing makes of them.

        Where another array has that name already, for a file may call its nodes anything, a number follows.
        """
        params = params or {}
        made = self.make(packing, arrays, params)
        stored = {}
        for name, array in arrays.items():
            key = f"{prefix}.{name}"
            numbers = count(2)
            while key in self.arrays and not _equal(self.arrays[key], array):
                key = f"{prefix}.{name}#{next(numbers)}"
            self.arrays[key] = array
            stored[name] = key
        places, buffers = {}, {}
        for name, array in made.items():
            offset = -(-self.nbytes // ALIGN) * ALIGN
            self.nbytes = offset + array.nbytes
            places[name] = Span(offset, int(array.nbytes))
            buffers[name] = Buffer(f"{prefix}.{name}", array.nbytes, Place("constant", offset))
        self.entries.append(Constant(packing, params, stored, places))
        return buffers


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
