"""Steps of a lowered network, the buffers that they write and read, and the places of these in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Buffer", "Place", "Step"]


@dataclass(frozen=True)
class Place:
    """Where a buffer starts.

    Attributes:
        kind: ``input``, ``output``, ``arena``, ``constant``, or ``slot`` (a buffer of a device).
        offset: Number of the input, the output or the slot; byte offset in the arena or in the constants.
    """

    kind: str
    offset: int


@dataclass
class Buffer:
    """Memory that steps write and read.

    ``place`` is fixed for inputs, outputs and constants, assigned for the rest. One with an ``alias`` has none:
    it is the other's memory from byte ``offset`` on. Of the ``tail``, so many bytes at the end, it does not matter what
    they hold: they are read at most, and may belong to another buffer too. Only the back end ``c`` sets these.
    """

    name: str
    nbytes: int
    place: Place | None = None
    alias: Buffer | None = None
    offset: int = 0
    tail: int = 0

    @property
    def root(self) -> Buffer:
        """The buffer whose memory this one is."""
        return self.alias.root if self.alias else self

    @property
    def start(self) -> int:
        """Where it begins in the memory of :attr:`root`, in bytes."""
        return self.offset + (self.alias.start if self.alias else 0)


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
