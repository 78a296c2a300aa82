"""Accumulators of a block of pixels in registers, pixels side by side: 16-bit lanes for 8-bit pixels, or float32.

8-bit activations are read two bytes at a time as one 16-bit word w: ``A += w`` and ``B += w >> 8``. At the end B is
the odd pixels' sum and ``A - (B << 8)`` the even pixels', modulo 2**16, which is exact while no sum of one sign
exceeds 32767.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tvm_schedules.backends.cpu.kernels.common.epilogue import every_fourth, packs_bytes, store_four, store_pixels
from tvm_schedules.compat import Emitter
from tvm_schedules.lowering.epilogue import Epilogue

__all__ = ["Block", "Bytes", "Floats", "SevenOfEight", "Wide", "accumulators_of"]


class Block(Protocol):
    """The part of a kernel's specification that accumulators depend on."""

    @property
    def block(self) -> int:
        """Vectors a block of pixels."""

    @property
    def vector(self) -> int:
        """Bytes a vector."""

    @property
    def epilogue(self) -> Epilogue:
        """What follows the accumulation."""


class Bytes:
    """Accumulators of 8-bit pixels in two 16-bit words: of all pixels' words, and of the odd pixels."""

    parts = 4
    memory = ("uint16", "uint16")
    """What :meth:`save` needs, each of one for two pixels."""
    unit = 65536.0
    """The accumulated values are multiples of it: as the high half of 32 bits a word keeps its sign without shifts."""
    kinds = ("uint16", "uint16")
    """Types of the registers."""

    def __init__(self, e: Emitter, spec: Block) -> None:
        self.e, self.spec = e, spec
        size = spec.block * spec.vector
        self.words = [e.local(size // np.dtype(kind).itemsize, kind) for kind in self.kinds]

    def _registers(self, at: int, width: int) -> list[tuple[Any, int, int, str]]:
        """For both words: the register, first element, number of elements and type of a vector."""
        sizes = [np.dtype(kind).itemsize for kind in self.kinds]
        return [
            (part, at // size, width // size, f"{kind}x{width // size}")
            for part, size, kind in zip(self.words, sizes, self.kinds, strict=True)
        ]

    def zero(self, at: int, width: int) -> None:
        """Sets the accumulators of a vector to zero."""
        for part, first, count, kind in self._registers(at, width):
            self.e.store(part, first, self.e.const(0, kind), count)

    def add(self, at: int, width: int, pixels: Any, sign: int) -> None:
        """Adds pixels, or takes them away."""
        for (part, first, count, _), term in zip(self._registers(at, width), self._terms(pixels, width), strict=True):
            old = self.e.load(part, first, count)
            self.e.store(part, first, old + term if sign > 0 else old - term, count)

    def join(self, other: Bytes, at: int, width: int, sign: int) -> None:
        """Adds the accumulators of a vector of others, or takes them away."""
        both = zip(self._registers(at, width), other.words, strict=True)
        for (part, first, count, _), words in both:
            old, term = self.e.load(part, first, count), self.e.load(words, first, count)
            self.e.store(part, first, old + term if sign > 0 else old - term, count)

    def _terms(self, pixels: Any, width: int) -> tuple[Any, Any]:
        word = self.e.bits(pixels, f"uint16x{width // 2}")
        return word, word >> self.e.const(8, f"uint16x{width // 2}")

    def _halves(self, at: int, width: int) -> tuple[Any, Any]:
        """Accumulated values of the even and of the odd pixels, 16 bits each."""
        a, b = (self.e.load(part, at // 2, width // 2) for part in self.words)
        return a - (b << self.e.const(8, f"uint16x{width // 2}")), b

    def rearranged(self, order: Sequence[Sequence[int]]) -> Bytes:
        """The accumulators of other pixels in every vector: those in the places ``order``, in pairs."""
        size = len(order[0]) // 2
        found = Bytes(self.e, self.spec)
        for old, new in zip(self.words, found.words, strict=True):
            vectors = [self.e.load(old, v * size, size) for v in range(self.spec.block)]
            for v, pixels in enumerate(order):
                self.e.store(new, v * size, self.e.shuffle(vectors, [p // 2 for p in pixels[::2]]), size)
        return found

    def values(self, at: int, width: int) -> list[Any]:
        """The accumulated values as float32: see :meth:`_pixels` for the order."""
        e, quarter = self.e, width // 4
        i32 = f"int32x{quarter}"
        even, odd = self._halves(at, width)
        if self._pixels(width) == list(range(width)):
            both = [half for pair in zip(range(2 * quarter), range(2 * quarter, width), strict=True) for half in pair]
            orders = (both[i : i + quarter] for i in range(0, width, quarter))
            words = [e.cast(e.shuffle([even, odd], order), i32) << e.const(16, i32) for order in orders]
        else:
            pairs = [e.bits(word, i32) for word in (even, odd)]
            words = [*(pair << e.const(16, i32) for pair in pairs), *(pair & e.const(-65536, i32) for pair in pairs)]
        return [e.cast(word, f"float32x{quarter}") for word in words]

    def _pixels(self, width: int) -> list[int]:
        """The pixels of the four vectors of :meth:`values`, one after another.

        Every fourth from the first on, from the second on, and so on, where results are bytes, which are put in order
        when four vectors have become one; else they are in order.
        """
        return every_fourth(width // 4) if packs_bytes(self.spec.epilogue, width // 4) else list(range(width))

    def store(self, ep: Epilogue, views: dict[str, Any], values: list[Any], n: Any, o: Any, p: Any, width: int) -> None:
        """Emits the epilogue of accumulated values."""
        store_four(self.e, ep, views, values, n, o, p, self._pixels(width))

    def save(self, memory: list[Any], row: Any, at: int, width: int) -> None:
        """Puts the words of a row aside."""
        base = row * (self.spec.block * self.spec.vector // 2)
        for (part, first, count, _), place in zip(self._registers(at, width), memory, strict=True):
            value = self.e.bits(self.e.load(part, first, count), f"uint16x{width // 2}")
            self.e.store(place, base + at // 2, value, width // 2)

    def recall(self, memory: list[Any], row: Any, at: int, width: int) -> None:
        """Goes on with words that were put aside."""
        base = row * (self.spec.block * self.spec.vector // 2)
        for (part, first, count, kind), place in zip(self._registers(at, width), memory, strict=True):
            self.e.store(part, first, self.e.bits(self.e.load(place, base + at // 2, width // 2), kind), count)


class SevenOfEight(Bytes):
    r"""Accumulators of 8-bit pixels in 7-of-8 packing: two additions a vector and no shift.

    Every eighth pixel does not matter.

    One register sums bytes, modulo 256; the other takes eight bytes for one number. With :math:`B_i = s_i + 256 t_i`
    the sum of byte i, the number is :math:`\sum_i 2^{8i} B_i`, and what it has more than the number that the bytes
    :math:`s_i` are is :math:`\sum_i 2^{8(i+1)} t_i`: the carries, digits between -128 and 127, all but the last.
    """

    kinds = ("uint8", "uint64")

    def _terms(self, pixels: Any, width: int) -> tuple[Any, Any]:
        return pixels, self.e.bits(pixels, f"uint64x{width // 8}")

    def _bytes(self, at: int, width: int) -> tuple[Any, Any]:
        """The low and the high byte of every accumulated value."""
        e, u64, u8 = self.e, f"uint64x{width // 8}", f"uint8x{width}"
        low, number = (e.load(part, first, count) for part, first, count, _ in self._registers(at, width))
        eight = e.const(8, u64)
        # With 128 added to every digit none is negative, and none borrows from the next.
        middle = e.bits(e.const(128, u8), u64) << eight
        return low, e.bits(((number - e.bits(low, u64) + middle) ^ middle) >> eight, u8)

    def _joined(self, low: Any, high: Any, width: int) -> tuple[Any, Any]:
        e, u16 = self.e, f"uint16x{width // 2}"
        low, high, eight, byte = e.bits(low, u16), e.bits(high, u16), e.const(8, u16), e.const(255, u16)
        return (low & byte) | (high << eight), (low >> eight) | (high & (byte << eight))

    def _halves(self, at: int, width: int) -> tuple[Any, Any]:
        return self._joined(*self._bytes(at, width), width)

    def rearranged(self, order: Sequence[Sequence[int]]) -> Bytes:
        """The accumulators of other pixels in every vector: those in the places ``order``."""
        e, width, found = self.e, len(order[0]), Bytes(self.e, self.spec)
        lows, highs = zip(*(self._bytes(v * width, width) for v in range(self.spec.block)), strict=True)
        for v, pixels in enumerate(order):
            even, odd = self._joined(e.shuffle(list(lows), list(pixels)), e.shuffle(list(highs), list(pixels)), width)
            word = even + (odd << e.const(8, f"uint16x{width // 2}"))
            for part, value in zip(found.words, (word, odd), strict=True):
                e.store(part, v * width // 2, value, width // 2)
        return found


class Wide:
    """Accumulators of 8-bit pixels in 16-bit lanes, widened as they are added: on Arm one instruction does both."""

    parts = 1
    memory = ("uint16",)
    """What :meth:`save` needs, one for a pixel."""
    unit = 1.0

    def __init__(self, e: Emitter, spec: Block) -> None:
        self.e, self.spec = e, spec
        self.total = e.local(spec.block * spec.vector, "uint16")

    def zero(self, at: int, width: int) -> None:
        """Sets the accumulators of a vector to zero."""
        self.e.store(self.total, at, self.e.const(0, f"uint16x{width}"), width)

    def add(self, at: int, width: int, pixels: Any, sign: int) -> None:
        """Adds pixels, or takes them away."""
        old, term = self.e.load(self.total, at, width), self.e.cast(pixels, f"uint16x{width}")
        self.e.store(self.total, at, old + term if sign > 0 else old - term, width)

    def join(self, other: Wide, at: int, width: int, sign: int) -> None:
        """Adds the accumulators of a vector of others, or takes them away."""
        old, term = self.e.load(self.total, at, width), self.e.load(other.total, at, width)
        self.e.store(self.total, at, old + term if sign > 0 else old - term, width)

    def save(self, memory: list[Any], row: Any, at: int, width: int) -> None:
        """Puts the accumulators of a row aside."""
        base = row * (self.spec.block * self.spec.vector)
        self.e.store(memory[0], base + at, self.e.load(self.total, at, width), width)

    def recall(self, memory: list[Any], row: Any, at: int, width: int) -> None:
        """Goes on with accumulators that were put aside."""
        base = row * (self.spec.block * self.spec.vector)
        self.e.store(self.total, at, self.e.load(memory[0], base + at, width), width)

    def values(self, at: int, width: int) -> list[Any]:
        """The accumulated values as float32."""
        e = self.e
        return [e.cast(e.bits(e.load(self.total, at, width), f"int16x{width}"), f"float32x{width}")]

    def store(self, ep: Epilogue, views: dict[str, Any], values: list[Any], n: Any, o: Any, p: Any, width: int) -> None:
        """Emits the epilogue of accumulated values."""
        store_pixels(self.e, ep, views, values[0], n, o, p, width)


class Floats:
    """Accumulators of 32-bit float pixels."""

    parts = 1
    memory = ("float32",)
    """What :meth:`save` needs, one for a pixel."""
    unit = 1.0

    def __init__(self, e: Emitter, spec: Block, vectors: int = 0) -> None:
        """Makes accumulators of a block, or of as many vectors."""
        self.e, self.spec = e, spec
        self.total = e.local((vectors or spec.block) * spec.vector // 4, "float32")

    def zero(self, at: int, width: int) -> None:
        """Sets the accumulators of a vector to zero."""
        self.e.store(self.total, at, self.e.const(0.0, f"float32x{width}"), width)

    def begin(self, at: int, width: int, pixels: Any) -> None:
        """Sets the accumulators of a vector to pixels."""
        self.e.store(self.total, at, pixels, width)

    def add(self, at: int, width: int, pixels: Any, sign: int) -> None:
        """Adds pixels, or takes them away."""
        old = self.e.load(self.total, at, width)
        self.e.store(self.total, at, old + pixels if sign > 0 else old - pixels, width)

    def join(self, other: Floats, at: int, width: int, sign: int) -> None:
        """Adds the accumulators of a vector of others, or takes them away."""
        self.add(at, width, self.e.load(other.total, at, width), sign)

    def rearranged(self, order: Sequence[Sequence[int]]) -> Floats:
        """The accumulators of other pixels in every vector: those in the places ``order``."""
        e, lanes, found = self.e, len(order[0]), Floats(self.e, self.spec, len(order))
        for v, pixels in enumerate(order):
            used = sorted({pixel // lanes for pixel in pixels})
            vectors = [e.load(self.total, u * lanes, lanes) for u in used]
            e.store(
                found.total,
                v * lanes,
                e.shuffle(vectors, [used.index(p // lanes) * lanes + p % lanes for p in pixels]),
                lanes,
            )
        return found

    def values(self, at: int, width: int) -> list[Any]:
        """The accumulated values as float32."""
        return [self.e.load(self.total, at, width)]

    def store(self, ep: Epilogue, views: dict[str, Any], values: list[Any], n: Any, o: Any, p: Any, width: int) -> None:
        """Emits the epilogue of accumulated values."""
        store_pixels(self.e, ep, views, values[0], n, o, p, width)

    def save(self, memory: list[Any], row: Any, at: int, width: int) -> None:
        """Puts the accumulators of a row aside."""
        base = row * (self.spec.block * self.spec.vector // 4)
        self.e.store(memory[0], base + at, self.e.load(self.total, at, width), width)

    def recall(self, memory: list[Any], row: Any, at: int, width: int) -> None:
        """Goes on with accumulators that were put aside."""
        base = row * (self.spec.block * self.spec.vector // 4)
        self.e.store(self.total, at, self.e.load(memory[0], base + at, width), width)


def accumulators_of(dtype: str, widen: bool) -> type[Bytes] | type[Wide] | type[Floats]:
    """The class of the accumulators of single pixels.

    Args:
        dtype: ``"uint8"`` or ``"float32"``.
        widen: Whether the CPU adds bytes to 16-bit lanes in one instruction.
    """
    return (Wide if widen else Bytes) if dtype == "uint8" else Floats
