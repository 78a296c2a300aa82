"""What the kernels that sum up pixels row by row share: loops; and sums that begin in bytes, for few bits.

Pixels are the vector lanes. Rows with several terms or unequal levels have several segments, which are added up in
float32 (exact for integers below 2**24). With few bits a segment adds up in bytes as long as these hold the sum, then
adds the bytes to 16-bit lanes, even and odd pixels apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, store_pairs, views_of
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.layout import Halo
from tvm_schedules.lowering.epilogue import Epilogue

if TYPE_CHECKING:
    from tvm_schedules.lowering.rules.sparse_conv import Spec

__all__ = ["ByteAccumulators", "PixelRows", "emit_rows", "row_loops"]

Parts = Sequence[tuple[int, int]]
"""First pixel and width of the vectors of a block."""


@dataclass(frozen=True)
class PixelRows:
    """What the code depends on.

    Args:
        x: Layout of the input.
        rows: Output channels.
        segments: Segments in all; 0 if every row is one segment and needs nothing but the epilogue's scale.
        vector: Bytes a vector register.
        block: Vectors a pixel block.
        chunks: Blocks of output channels, for threads.
        parallel: Whether threads share the jobs.
        epilogue: What follows the accumulation: scale, bias, residual, clip, rounding.
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
    def lanes(self) -> int:
        """Pixels a vector."""
        return self.vector // self.x.itemsize

    @property
    def step(self) -> int:
        """Pixels a block."""
        return self.block * self.lanes

    @property
    def widths(self) -> tuple[int, list[int]]:
        """How many whole pixel blocks there are, and the vectors of the rest, the last one as narrow as will do."""
        full, rest = divmod(self.x.run(self.epilogue.size), self.step)
        tail = [self.lanes] * (rest // self.lanes)
        left = rest % self.lanes
        narrow = [n // self.x.itemsize for n in (16, 32) if left * self.x.itemsize <= n < self.vector]
        return full, [*tail, narrow[0] if narrow else self.lanes] if left else tail

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane."""
        full, tail = self.widths
        return full * self.step + sum(tail)


class ByteAccumulators:
    """Accumulators of a block's pixels: 16-bit lanes, even and odd pixels apart, and bytes for what is added first."""

    parts = 2

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
        """The accumulated values of a vector's even and odd pixels in float32."""
        e, half = self.e, width // 2
        words = (e.load(part, at // 2, half) for part in self.halves)
        return [e.cast(e.bits(word, f"{self.dtype}x{half}"), f"float32x{half}") for word in words]

    def store(self, ep: Epilogue, views: dict[str, Any], values: list[Any], n: Any, o: Any, p: Any, width: int) -> None:
        """Emits the epilogue of accumulated values."""
        store_pairs(self.e, ep, views, values[0], values[1], n, o, p, width // 2)


Segment = Callable[[Any, Any, Any, Parts], None]
"""Called with accumulators, segment, first element of every plane and vectors of a block: adds up the pixels."""


class _Segments:
    """Rows of several segments: all but the last one are added up in memory, in float32.

    Attributes:
        fma: Whether levels are multiplied and added in one step.
        row: First segment of every output channel.
        level: Level of every segment.
        pair: What accumulates the first and the second segment of rows that have two each; None for others.
    """

    def __init__(
        self, e: Emitter, fma: bool, row: Any, level: Any, segment: Segment, pair: Sequence[Segment] | None
    ) -> None:
        self.e, self.fma, self.row, self.level, self.segment, self.pair = e, fma, row, level, segment, pair

    def all_but_last(self, acc: Any, totals: list[Any], base: Any, place: Any, parts: Parts) -> Any:
        """Adds up all segments but the last one, which the accumulators then have; returns which one this is."""
        e = self.e
        if self.pair is not None:
            self.pair[0](acc, 2 * place, base, parts)
            self._keep(acc, totals, 2 * place, parts, False)
            self.pair[1](acc, 2 * place + 1, base, parts)
            return 2 * place + 1
        first = e.load(self.row, place)
        last = e.load(self.row, place + 1) - 1
        with e.when(first == last):
            for total in totals:
                for at, width in parts:
                    e.store(total, at // acc.parts, e.const(0.0, f"float32x{width // acc.parts}"), width // acc.parts)
        with e.loop(last - first) as i:
            self.segment(acc, first + i, base, parts)
            for add in (False, True):
                with e.when(i > 0 if add else i == 0):
                    self._keep(acc, totals, first + i, parts, add)
        self.segment(acc, last, base, parts)
        return last

    def _keep(self, acc: Any, totals: list[Any], s: Any, parts: Parts, add: bool) -> None:
        """Puts the sums of segment ``s`` times its level into the totals, or adds them."""
        e = self.e
        for at, width in parts:
            values = self.values(acc, totals if add else [], s, at, width)
            for total, value in zip(totals, values, strict=True):
                e.store(total, at // acc.parts, value, width // acc.parts)

    def values(self, acc: Any, totals: list[Any], s: Any, at: int, width: int) -> list[Any]:
        """The values of a vector's sums of segment ``s`` times its level, added to the totals where there are some."""
        e = self.e
        lanes = width // acc.parts
        weight, values = e.splat(e.load(self.level, s), lanes), acc.values(at, width)
        if not totals:
            return [value * weight for value in values]
        old = [e.load(total, at // acc.parts, lanes) for total in totals]
        return [e.fma(v, weight, o) if self.fma else o + v * weight for v, o in zip(values, old, strict=True)]


def row_loops(
    e: Emitter,
    spec: PixelRows | Spec,
    make: Callable[[], Any],
    row: Any,
    level: Any,
    views: dict[str, Any],
    segment: Segment,
    order: Any = None,
    pair: Sequence[Segment] | None = None,
) -> None:
    """Emits the loops over images, output channels and pixel blocks: accumulators of segments, then the epilogue.

    Args:
        e: Emitter of the function.
        spec: Specification of the kernel.
        make: Makes the accumulators of a block; called once for a job.
        row: First segment of every output channel.
        level: Level of every segment.
        views: Buffers of the epilogue's arguments.
        segment: Accumulates a segment.
        order: Which output channel is next; None for their own order.
        pair: The same as ``segment`` for the first and the second segment of rows that have two each; None for others.
    """
    ep, x = spec.epilogue, spec.x
    full, tail = spec.widths
    size, blocks = spec.block * spec.lanes, full + bool(tail)
    per_chunk = -(-spec.rows // spec.chunks)
    image = x.channels * x.phases * x.plane
    rows = _Segments(e, ep.fma, row, level, segment, pair)

    def pixels(acc: Any, totals: list[Any], n: Any, block: Any, place: Any, widths: list[int]) -> None:
        start, o = block * size, place if order is None else e.load(order, place)
        base = start + n * image
        parts = [(sum(widths[:v]), width) for v, width in enumerate(widths)]
        if totals:
            s = rows.all_but_last(acc, totals, base, place, parts)
        else:
            segment(acc, place, base, parts)
        for at, width in parts:
            found = rows.values(acc, totals, s, at, width) if totals else acc.values(at, width)
            acc.store(ep, views, found, n, o, start + at, width)

    def blocks_of(acc: Any, totals: list[Any], n: Any, block: Any, place: Any) -> None:
        if full:
            with e.when(block < full):
                pixels(acc, totals, n, block, place, [spec.lanes] * spec.block)
        if tail:
            with e.when(block == full):
                pixels(acc, totals, n, block, place, tail)
        fill_borders(e, ep.out, views["out"], n, place, spec.pixels, block=block, blocks=blocks)

    with e.jobs(x.batch * spec.chunks * blocks, spec.parallel) as job:
        n, rest = job // (spec.chunks * blocks), job % (spec.chunks * blocks)
        acc = make()
        totals = [e.local(size // acc.parts, "float32") for _ in range(acc.parts)] if spec.segments else []
        with e.loop(per_chunk) as i:
            place = rest % spec.chunks * per_chunk + i
            with e.when(place < spec.rows):
                blocks_of(acc, totals, n, rest // spec.chunks, place)


def emit_rows(
    spec: PixelRows,
    own: Sequence[tuple[str, str, int]],
    signed: bool,
    segment: Callable[[Emitter, Any, list[Any], ByteAccumulators, Any, Any, Parts], None],
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

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], x.elements + spec.pixels, "uint8")
        arrays = [e.view(p, n, dtype) for p, (_, dtype, n) in zip(pointers[1:], own, strict=False)]
        after, count = 1 + len(own), max(spec.segments, spec.rows)
        row, level = e.view(pointers[after], spec.rows + 1, "int32"), e.view(pointers[after + 1], count, "float32")
        views = views_of(e, ep, list(pointers[after + 2 :]), spec.rows, spec.pixels)

        def whole(acc: ByteAccumulators, s: Any, base: Any, parts: Parts) -> None:
            acc.zero(parts)
            segment(e, bx, arrays, acc, s, base, parts)

        row_loops(e, spec, lambda: ByteAccumulators(e, spec, signed), row, level, views, whole)

    return kernel_function([*arguments, *ep.arguments], body)
