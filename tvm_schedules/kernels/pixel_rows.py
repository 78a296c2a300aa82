"""What the kernels over activations of few bits share: loops, and sums that begin in bytes.

Pixels are the vector lanes. A segment of a row adds up in bytes as long as these hold the sum, then adds the bytes
to 16-bit lanes, even and odd pixels apart. Rows with several terms or unequal levels have several segments, which
are added up in float32 (exact for integers below 2**24).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..compat import Emitter, kernel_function
from ..layout import Halo
from .epilogue import Epilogue, fill_borders, store_pairs

__all__ = ["PixelRows", "Sums", "emit_rows"]

Parts = Sequence[tuple[int, int]]
"""First pixel and width of the vectors of a block."""


@dataclass(frozen=True)
class PixelRows:
    """What the code depends on.

    Args:
        x: Layout of the input, bytes.
        rows: Output channels.
        segments: Segments in all; 0 if every row is one segment and needs nothing but the epilogue's scale.
        vector: Bytes a vector register.
        block: Vectors a pixel block.
        chunks: Blocks of output channels, for threads.
        parallel: Whether threads share the jobs.
        epilogue: What follows.
    """

    x: Halo
    rows: int
    segments: int
    vector: int
    block: int
    chunks: int
    parallel: bool
    epilogue: Epilogue

    @property
    def widths(self) -> tuple[int, list[int]]:
        """How many whole pixel blocks there are, and the vectors of the rest, the last one as narrow as will do."""
        full, rest = divmod(self.x.run(self.epilogue.size), self.block * self.vector)
        tail = [self.vector] * (rest // self.vector)
        left = rest % self.vector
        narrow = [n for n in (16, 32) if left <= n < self.vector]
        return full, [*tail, narrow[0] if narrow else self.vector] if left else tail

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane."""
        full, tail = self.widths
        return full * self.block * self.vector + sum(tail)


class Sums:
    """Sums of a block's pixels in 16-bit lanes, even and odd pixels apart, and bytes for what is added first."""

    def __init__(self, e: Emitter, spec: PixelRows, signed: bool) -> None:
        size = spec.block * spec.vector
        self.e, self.dtype = e, "int16" if signed else "uint16"
        self.halves = [e.local(size // 2, "uint16") for _ in range(2)]
        self.bytes = e.local(size, "uint8")

    def zero(self, parts: Parts) -> None:
        """Begins a segment."""
        for at, width in parts:
            for half in self.halves:
                self.e.store(half, at // 2, self.e.const(0, f"uint16x{width // 2}"), width // 2)

    def double(self, parts: Parts) -> None:
        """Multiplies by two."""
        for at, width in parts:
            for half in self.halves:
                old = self.e.load(half, at // 2, width // 2)
                self.e.store(half, at // 2, old + old, width // 2)

    def zero_bytes(self, parts: Parts) -> None:
        """Sets the byte sums to zero."""
        for at, width in parts:
            self.e.store(self.bytes, at, self.e.const(0, f"uint8x{width}"), width)

    def add(self, at: int, width: int, value: Any) -> None:
        """Adds to the byte sums of one vector."""
        self.e.store(self.bytes, at, self.e.load(self.bytes, at, width) + value, width)

    def fold(self, parts: Parts, sign: int) -> None:
        """Adds the byte sums to the 16-bit sums, or subtracts them."""
        e = self.e
        for at, width in parts:
            u16 = f"uint16x{width // 2}"
            word = e.bits(e.load(self.bytes, at, width), u16)
            for half, term in zip(self.halves, (word & e.const(255, u16), word >> e.const(8, u16)), strict=True):
                old = e.load(half, at // 2, width // 2)
                e.store(half, at // 2, old + term if sign > 0 else old - term, width // 2)

    def values(self, at: int, width: int) -> list[Any]:
        """The sums of a vector's even and odd pixels in float32."""
        e, half = self.e, width // 2
        words = (e.load(part, at // 2, half) for part in self.halves)
        return [e.cast(e.bits(word, f"{self.dtype}x{half}"), f"float32x{half}") for word in words]


def emit_rows(
    spec: PixelRows,
    own: Sequence[tuple[str, str, int]],
    signed: bool,
    segment: Callable[[Emitter, Any, list[Any], Sums, Any, Any, Parts], None],
) -> Any:
    """Makes the PrimFunc: ``x, <own>, row, level, <epilogue>``.

    Args:
        spec: Geometry.
        own: Name, type and number of elements of the kernel's own arrays.
        signed: Whether sums can be negative.
        segment: ``segment(emitter, x, own, sums, s, base, parts)`` adds segment ``s`` to the sums of the pixels from
            element ``base`` of every plane on.
    """
    ep, x = spec.epilogue, spec.x
    arguments = [("x", "uint8"), *((name, dtype) for name, dtype, _ in own), ("row", "int32"), ("level", "float32")]
    count, size = max(spec.segments, spec.rows), spec.block * spec.vector
    full, tail = spec.widths
    blocks = full + bool(tail)
    per_chunk = -(-spec.rows // spec.chunks)
    image = x.channels * x.phases * x.plane

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], x.elements + spec.pixels, "uint8")
        arrays = [e.view(p, n, dtype) for p, (_, dtype, n) in zip(pointers[1:], own, strict=False)]
        after = 1 + len(own)
        row, level = e.view(pointers[after], spec.rows + 1, "int32"), e.view(pointers[after + 1], count, "float32")
        views = ep.views(e, list(pointers[after + 2 :]), spec.rows, spec.pixels)

        def several(sums: Sums, totals: list[Any], base: Any, o: Any, parts: Parts) -> None:
            for total in totals:
                for at, width in parts:
                    e.store(total, at // 2, e.const(0.0, f"float32x{width // 2}"), width // 2)
            first = e.load(row, o)
            with e.loop(e.load(row, o + 1) - first) as i:
                sums.zero(parts)
                segment(e, bx, arrays, sums, first + i, base, parts)
                for at, width in parts:
                    weight = e.splat(e.load(level, first + i), width // 2)
                    for total, value in zip(totals, sums.values(at, width), strict=True):
                        old = e.load(total, at // 2, width // 2)
                        new = e.fma(value, weight, old) if ep.fma else old + value * weight
                        e.store(total, at // 2, new, width // 2)

        def pixels(sums: Sums, totals: list[Any], n: Any, block: Any, o: Any, widths: list[int]) -> None:
            start = block * size
            parts = [(sum(widths[:v]), width) for v, width in enumerate(widths)]
            if totals:
                several(sums, totals, start + n * image, o, parts)
            else:
                sums.zero(parts)
                segment(e, bx, arrays, sums, o, start + n * image, parts)
            for at, width in parts:
                found = [e.load(t, at // 2, width // 2) for t in totals] if totals else sums.values(at, width)
                store_pairs(e, ep, views, found[0], found[1], n, o, start + at, width // 2)

        def rows(sums: Sums, totals: list[Any], n: Any, block: Any, o: Any) -> None:
            if full:
                with e.when(block < full):
                    pixels(sums, totals, n, block, o, [spec.vector] * spec.block)
            if tail:
                with e.when(block == full):
                    pixels(sums, totals, n, block, o, tail)
            with e.when(block == 0):
                fill_borders(e, ep.out, views["out"], n, o, spec.pixels)

        with e.jobs(x.batch * spec.chunks * blocks, spec.parallel) as job:
            n, rest = job // (spec.chunks * blocks), job % (spec.chunks * blocks)
            sums = Sums(e, spec, signed)
            totals = [e.local(size // 2, "float32") for _ in range(2)] if spec.segments else []
            with e.loop(per_chunk) as i:
                o = rest // blocks * per_chunk + i
                with e.when(o < spec.rows):
                    rows(sums, totals, n, rest % blocks, o)

    return kernel_function([*arguments, *ep.arguments], body)
