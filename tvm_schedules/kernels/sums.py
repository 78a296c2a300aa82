"""Sums of a block of pixels, the vectors' lanes, in registers: of 8-bit pixels in 16-bit lanes, or of float32.

8-bit activations are read two bytes at a time as one 16-bit word w: ``A += w`` and ``B += w >> 8``. At the end B is
the odd pixels' sum and ``A - (B << 8)`` the even pixels', modulo 2**16, which is exact while no sum of one sign
exceeds 32767.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..compat import Emitter
from .epilogue import Epilogue, store_four, store_pixels

__all__ = ["Block", "Bytes", "Floats", "Wide"]


class Block(Protocol):
    """What of a kernel's specification sums depend on: vectors a block, bytes a vector."""

    @property
    def block(self) -> int:
        """Vectors a block of pixels."""

    @property
    def vector(self) -> int:
        """Bytes a vector."""


class Bytes:
    """Sums of 8-bit pixels in two 16-bit words: of all pixels' words, and of the odd pixels."""

    parts = 4

    def __init__(self, e: Emitter, spec: Block) -> None:
        self.e, self.spec = e, spec
        self.words = [e.local(spec.block * spec.vector // 2, "uint16") for _ in range(2)]

    def zero(self, at: int, width: int) -> None:
        """Begins with nothing."""
        for part in self.words:
            self.e.store(part, at // 2, self.e.const(0, f"uint16x{width // 2}"), width // 2)

    def add(self, at: int, width: int, pixels: Any, sign: int) -> None:
        """Adds pixels, or takes them away."""
        e, half, u16 = self.e, width // 2, f"uint16x{width // 2}"
        word = e.bits(pixels, u16)
        for part, term in zip(self.words, (word, word >> e.const(8, u16)), strict=True):
            old = e.load(part, at // 2, half)
            e.store(part, at // 2, old + term if sign > 0 else old - term, half)

    def rearranged(self, order: Sequence[Sequence[int]]) -> Bytes:
        """The sums of other pixels in every vector: those in the places ``order``, in pairs."""
        size = len(order[0]) // 2
        found = Bytes(self.e, self.spec)
        for old, new in zip(self.words, found.words, strict=True):
            vectors = [self.e.load(old, v * size, size) for v in range(len(order))]
            for v, pixels in enumerate(order):
                self.e.store(new, v * size, self.e.shuffle(vectors, [p // 2 for p in pixels[::2]]), size)
        return found

    def sums(self, at: int, width: int) -> list[Any]:
        """The sums as float32: of every fourth pixel from the first on, from the second on, and so on."""
        e, half, i32 = self.e, width // 2, f"int32x{width // 4}"
        a, b = (e.load(part, at // 2, half) for part in self.words)
        even = a - (b << e.const(8, f"uint16x{half}"))
        pairs, shift = [e.bits(word, i32) for word in (even, b)], e.const(16, i32)
        words = [*((pair << shift) >> shift for pair in pairs), *(pair >> shift for pair in pairs)]
        return [e.cast(word, f"float32x{width // 4}") for word in words]

    def store(self, ep: Epilogue, views: dict[str, Any], sums: list[Any], n: Any, o: Any, p: Any, width: int) -> None:
        """The epilogue of sums."""
        store_four(self.e, ep, views, sums, n, o, p, True, width // 4)

    def save(self, memory: list[Any], base: Any, at: int, width: int) -> None:
        """Puts the words aside, from element ``base`` of each of two memories on."""
        for part, place in zip(self.words, memory, strict=True):
            self.e.store(place, base + at // 2, self.e.load(part, at // 2, width // 2), width // 2)

    def recall(self, memory: list[Any], base: Any, at: int, width: int) -> None:
        """Goes on with words that were put aside."""
        for part, place in zip(self.words, memory, strict=True):
            self.e.store(part, at // 2, self.e.load(place, base + at // 2, width // 2), width // 2)


class Wide:
    """Sums of 8-bit pixels in 16-bit lanes, widened as they are added: on Arm one instruction does both."""

    parts = 1

    def __init__(self, e: Emitter, spec: Block) -> None:
        self.e = e
        self.total = e.local(spec.block * spec.vector, "uint16")

    def zero(self, at: int, width: int) -> None:
        """Begins with nothing."""
        self.e.store(self.total, at, self.e.const(0, f"uint16x{width}"), width)

    def add(self, at: int, width: int, pixels: Any, sign: int) -> None:
        """Adds pixels, or takes them away."""
        old, term = self.e.load(self.total, at, width), self.e.cast(pixels, f"uint16x{width}")
        self.e.store(self.total, at, old + term if sign > 0 else old - term, width)

    def sums(self, at: int, width: int) -> list[Any]:
        """The sums as float32."""
        e = self.e
        return [e.cast(e.bits(e.load(self.total, at, width), f"int16x{width}"), f"float32x{width}")]

    def store(self, ep: Epilogue, views: dict[str, Any], sums: list[Any], n: Any, o: Any, p: Any, width: int) -> None:
        """The epilogue of sums."""
        store_pixels(self.e, ep, views, sums[0], n, o, p, width)


class Floats:
    """Sums of 32-bit float pixels."""

    parts = 1

    def __init__(self, e: Emitter, spec: Block) -> None:
        self.e = e
        self.total = e.local(spec.block * spec.vector // 4, "float32")

    def zero(self, at: int, width: int) -> None:
        """Begins with nothing."""
        self.e.store(self.total, at, self.e.const(0.0, f"float32x{width}"), width)

    def add(self, at: int, width: int, pixels: Any, sign: int) -> None:
        """Adds pixels, or takes them away."""
        old = self.e.load(self.total, at, width)
        self.e.store(self.total, at, old + pixels if sign > 0 else old - pixels, width)

    def sums(self, at: int, width: int) -> list[Any]:
        """The sums as float32."""
        return [self.e.load(self.total, at, width)]

    def store(self, ep: Epilogue, views: dict[str, Any], sums: list[Any], n: Any, o: Any, p: Any, width: int) -> None:
        """The epilogue of sums."""
        store_pixels(self.e, ep, views, sums[0], n, o, p, width)
