"""Steps, buffers and constants of a compiled network, and where each lies in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from tvm_schedules.ir.layout import ALIGN

__all__ = ["Buffer", "Constants", "Place", "Step", "assign"]


@dataclass(frozen=True)
class Place:
    """Where a buffer starts: argument ``index`` of a kind, or a byte offset in the arena or the constants."""

    kind: str  # "input", "output", "arena", "constant"
    offset: int


@dataclass
class Buffer:
    """Memory that steps write and read. ``place`` is fixed for inputs, outputs and constants, assigned for the rest."""

    name: str
    nbytes: int
    place: Place | None = None
    alias: Buffer | None = None

    @property
    def root(self) -> Buffer:
        """The buffer whose memory this one is."""
        return self.alias.root if self.alias else self


@dataclass
class Step:
    """One kernel call.

    ``make`` builds the PrimFunc; steps with equal ``spec`` share it. ``info`` is what reports print.
    """

    name: str
    kernel: str
    spec: Any
    make: Callable[[], Any]
    args: list[Buffer]
    info: dict[str, Any] = field(default_factory=dict)


class Constants:
    """Collects stored arrays and the recipes that expand them."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.entries: list[dict[str, Any]] = []
        self.nbytes = 0
        self._shared: dict[tuple[Any, ...], list[Buffer]] = {}

    def make(self, recipe: str, arrays: dict[str, np.ndarray], params: dict[str, Any]) -> dict[str, np.ndarray]:
        """What the kernels read."""
        from tvm_schedules.packing.registry import RECIPES

        return RECIPES[recipe](arrays, params)

    def add(
        self, prefix: str, recipe: str, arrays: dict[str, np.ndarray], params: dict[str, Any] | None = None
    ) -> dict[str, Buffer]:
        """Stores arrays under ``prefix.name`` and returns a buffer for every array that the recipe makes of them.

        Where another array has that name already, for a file may call its nodes anything, a number follows.
        """
        params = params or {}
        made = self.make(recipe, arrays, params)
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
            places[name] = {"offset": offset, "nbytes": int(array.nbytes)}
            buffers[name] = Buffer(f"{prefix}.{name}", array.nbytes, Place("constant", offset))
        self.entries.append({"recipe": recipe, "params": params, "arrays": stored, "outputs": places})
        return buffers


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assign(steps: list[Step], slack: int) -> int:
    """Gives every buffer without a place one in the arena; returns the arena's size, for all that lie there.

    First fit over lifetimes, once in the order of time and once from the largest buffer down; the smaller arena counts.

    Args:
        steps: In execution order.
        slack: Bytes that kernels may read past a buffer's end.
    """
    lives: dict[int, tuple[Buffer, int, int]] = {}
    most = 0
    for time, step in enumerate(steps):
        for buffer in step.args:
            root = buffer.root
            if root.place and root.place.kind == "arena":
                most = max(most, root.place.offset + -(-root.nbytes // ALIGN) * ALIGN)
            if root.place is None:
                lives[id(root)] = (root, lives.get(id(root), (root, time, time))[1], time)
    by_time = sorted(lives.values(), key=lambda life: (life[1], -life[0].nbytes))
    by_size = sorted(lives.values(), key=lambda life: (-life[0].nbytes, life[1]))
    offsets, size = min((_first_fit(order) for order in (by_time, by_size)), key=lambda found: found[1])
    for key, offset in offsets.items():
        lives[key][0].place = Place("arena", offset)
    return max(size, most) + slack


def _first_fit(order: list[tuple[Buffer, int, int]]) -> tuple[dict[int, int], int]:
    """Offsets of buffers (with first and last use), each at the lowest gap among those that live when it does."""
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first use, last use
    offsets: dict[int, int] = {}
    for buffer, first, last in order:
        need, offset = -(-buffer.nbytes // ALIGN) * ALIGN, 0
        for begin, end, since, until in sorted(placed):
            if since > last or until < first:
                continue
            if offset + need <= begin:
                break
            offset = max(offset, end)
        placed.append((offset, offset + need, first, last))
        offsets[id(buffer)] = offset
    return offsets, max((end for _, end, _, _ in placed), default=0)
