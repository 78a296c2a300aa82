"""Dense 8-bit convolution with x86's four-way dot products and output channels in the lanes: for small images.

With pixels in the lanes, as in :mod:`.dense_conv_dot`, lanes are lost to the columns between rows and to the last
vector: a quarter of them in an image of 7x7. Here a register block is some channels by whole strips of pixels, each of
which is four bytes of the panel in every lane, so that no lane is lost. The sums are transposed for the epilogue, which
takes little of the time where many taps are summed up.

Bound by dot products, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.kernels.common.dot_layer import DotLayer
from tvm_schedules.backends.cpu.kernels.common.dot_product import Dot
from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, store_four, store_pixels, views_of
from tvm_schedules.backends.cpu.kernels.dense_conv_dot import interleaved
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.lowering.epilogue import Epilogue

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "dense_channels"
"""What artifacts and tuning databases call this kernel."""

LANES = 16
I32 = f"int32x{LANES}"
BLOCK_CHANNELS = 32
"""Output channels a register block: two vectors, so that fourteen pixels beside them fill the registers."""
PIXELS = 14
"""Pixels a register block at most."""

LEAST_QUADS = 144
"""Groups of four taps from which transposing the sums pays (measured: at 7x7 it loses with 110, wins with 144)."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8.
        window: Geometry.
        rows: Output channels.
        dot: The dot product.
        high: Rows of pixels a block.
        chunks: Blocks of output channels, for threads.
        parallel: Whether threads share the jobs.
        epilogue: What follows the accumulation: scale, bias, residual, clip, rounding.
    """

    x: Halo
    window: Window
    rows: int
    dot: Dot
    high: int
    chunks: int
    parallel: bool
    epilogue: Epilogue

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane: whole vectors."""
        return -(-self.x.run(self.epilogue.size) // LANES) * LANES

    @property
    def quads(self) -> int:
        """Groups of four taps of one output channel."""
        return -(-self.x.channels * prod(self.window.kernel) // 4)


def strip(width: int) -> tuple[int, int]:
    """Rows and columns of pixels a register block, for an image of that width: as many as there is room for."""
    if width <= PIXELS:
        return PIXELS // width, width
    return 1, max(n for n in range(1, PIXELS + 1) if width % n == 0)


def high(rows: int, pitch: int) -> int:
    """Rows of pixels a block: all, if they are few, or whole vectors of them; best an even number of like blocks."""
    most = 8 * LANES // pitch
    whole = [n for n in range(1, min(rows - 1, most) + 1) if n * pitch % LANES == 0]
    return rows if rows <= most or not whole else min(whole, key=lambda n: (-(-rows // n) % 2, -(-rows // n), n))


def _lanes_in_order(e: Emitter, quads: list[Any]) -> list[Any]:
    """Four vectors with every fourth 16 bytes each, as :func:`.dense_conv_dot.interleaved` leaves them, in order."""

    def lanes(pair: list[Any], which: list[int]) -> Any:
        return e.shuffle(pair, [16 * lane + k for lane in which for k in range(16)])

    low = [lanes(pair, [0, 1, 4, 5]) for pair in (quads[:2], quads[2:])]
    high = [lanes(pair, [2, 3, 6, 7]) for pair in (quads[:2], quads[2:])]
    return [lanes(pair, which) for pair in (low, high) for which in ([0, 2, 4, 6], [1, 3, 5, 7])]


def _transposed(e: Emitter, rows: list[Any]) -> list[Any]:
    """A square of numbers, row by row, column by column."""
    size = len(rows)
    step = size // 2
    while step:
        swapped = list(rows)
        for i in (i for i in range(size) if not i & step):
            pair = [rows[i], rows[i | step]]
            swapped[i] = e.shuffle(pair, [k if not k & step else size + (k ^ step) for k in range(size)])
            swapped[i | step] = e.shuffle(pair, [k ^ step if not k & step else size + k for k in range(size)])
        rows, step = swapped, step // 2
    return rows


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, values, offsets, <epilogue>``."""

    def body(e: Emitter, *pointers: Any) -> None:
        _Code(e, spec, pointers).jobs()

    return kernel_function([("x", "uint8"), ("values", "int32"), ("offsets", "int32"), *spec.epilogue.arguments], body)


class _Code:
    """The code of one function.

    Attributes:
        height: Rows of output pixels.
        width: Columns of output pixels.
        tall: Rows of pixels a register block.
        wide: Columns of pixels a register block.
        blocks: Blocks of an image.
        vectors: Vectors of pixels a block.
        room: Elements that a block takes, in whole groups of four vectors.
    """

    def __init__(self, e: Emitter, spec: Spec, pointers: Sequence[Any]) -> None:
        self.e, self.spec, x, quads = e, spec, spec.x, spec.quads
        self.height, self.width = spec.epilogue.size[1:]
        self.tall, self.wide = strip(self.width)
        self.blocks, pitch = -(-self.height // spec.high), x.pitch[1]
        self.vectors = -(-spec.high * pitch // LANES) if self.blocks > 1 else spec.pixels // LANES
        self.room = -(-self.vectors // 4) * 4 * LANES
        self.row_blocks = -(-spec.rows // BLOCK_CHANNELS)
        self.x = e.view(pointers[0], x.elements + spec.pixels + self.room, "uint8")
        self.values = e.view(pointers[1], self.row_blocks * quads * BLOCK_CHANNELS, "int32")
        self.offsets = e.view(pointers[2], quads * 4, "int32")
        self.views = views_of(e, spec.epilogue, list(pointers[3:]), spec.rows, spec.pixels)

    def jobs(self) -> None:
        """All jobs: a block of pixels and a chunk of output channels each."""
        e, spec, x = self.e, self.spec, self.spec.x
        image, per_chunk = x.channels * x.phases * x.plane, -(-self.row_blocks // spec.chunks)
        with e.jobs(x.batch * spec.chunks * self.blocks, spec.parallel) as job:
            block, rest = job % self.blocks, job // self.blocks
            chunk, n = rest % spec.chunks, rest // spec.chunks
            panel = e.scratch(spec.quads * self.room, "int32")
            size = self.room * BLOCK_CHANNELS
            memory = (e.scratch(size, "int32"), e.scratch(size, "int32"))
            self._fill(panel, n * image + block * (spec.high * x.pitch[1]))
            with e.loop(per_chunk) as i:
                row_block = chunk * per_chunk + i
                with e.when(row_block < self.row_blocks):
                    self._channels(panel, memory, n, row_block, block)

    def _fill(self, panel: Any, base: Any) -> None:
        """Interleaves each four taps of a block's pixels."""
        e = self.e
        with e.loop(self.spec.quads) as q:
            places = [e.load(self.offsets, q * 4 + t) + base for t in range(4)]
            for at in range(0, self.room, 64):
                taps = [e.load(self.x, place + at, 64) for place in places]
                for v, quad in enumerate(_lanes_in_order(e, interleaved(e, taps, 64))):
                    e.store(panel, q * self.room + at + v * LANES, e.bits(quad, I32), LANES)

    def _channels(self, panel: Any, memory: tuple[Any, Any], n: Any, row_block: Any, block: Any) -> None:
        """Computes a block of pixels in a register block of output channels.

        Args:
            panel: Pixels.
            memory: Room for the accumulators by pixel and, transposed, by channel.
            n: Image.
            row_block: Which output channels.
            block: Which pixels.
        """
        e, spec, pitch, (sums, turned) = self.e, self.spec, self.spec.x.pitch[1], memory
        first = row_block * (spec.quads * BLOCK_CHANNELS)
        count = e.min(e.expr(spec.high), self.height - block * spec.high)
        with e.loop(self.width // self.wide) as s:
            with e.loop(count // self.tall) as r:
                self._strip(panel, sums, first, r * (self.tall * pitch) + s * self.wide, self.tall)
            if self.tall > 1:
                with e.loop(count % self.tall) as r:
                    self._strip(panel, sums, first, (count - count % self.tall + r) * pitch + s * self.wide, 1)
        with e.loop(self.vectors) as v, e.loop(BLOCK_CHANNELS // LANES) as half:
            rows = [e.load(sums, (v * LANES + i) * BLOCK_CHANNELS + half * LANES, LANES) for i in range(LANES)]
            for k, row in enumerate(_transposed(e, rows)):
                e.store(turned, (half * LANES + k) * self.room + v * LANES, row, LANES)
        with e.loop(BLOCK_CHANNELS) as k:
            o = row_block * BLOCK_CHANNELS + k
            with e.when(o < spec.rows):
                self._finish(turned, n, o, k, block * (spec.high * pitch))
                out, where = spec.epilogue.out, {"block": block, "blocks": self.blocks}
                fill_borders(e, out, self.views["out"], n, o, spec.pixels, **where)

    def _strip(self, panel: Any, sums: Any, first: Any, start: Any, rows: int) -> None:
        """Sums of a strip's pixels, ``rows`` of them one below the other."""
        e, spec, halves = self.e, self.spec, range(0, BLOCK_CHANNELS, LANES)
        places = [r * spec.x.pitch[1] + c for r in range(rows) for c in range(self.wide)]
        acc = [e.local(BLOCK_CHANNELS, "int32") for _ in places]
        for part in acc:
            for half in halves:
                e.store(part, half, e.const(0, I32), LANES)
        with e.loop(spec.quads) as q:
            at = first + q * BLOCK_CHANNELS
            weights = [e.bits(e.load(self.values, at + half, LANES), "int8x64") for half in halves]
            for part, place in zip(acc, places, strict=True):
                pixel = e.bits(e.splat(e.load(panel, q * self.room + start + place), LANES), "uint8x64")
                for half, weight in zip(halves, weights, strict=True):
                    e.store(part, half, spec.dot(e, e.load(part, half, LANES), pixel, weight), LANES)
        for part, place in zip(acc, places, strict=True):
            for half in halves:
                e.store(sums, (start + place) * BLOCK_CHANNELS + half, e.load(part, half, LANES), LANES)

    def _finish(self, turned: Any, n: Any, o: Any, k: Any, start: Any) -> None:
        """The epilogue of a block's pixels in one channel."""
        e, ep, pixels = self.e, self.spec.epilogue, self.spec.pixels

        def values(v: int) -> Any:
            return e.cast(e.load(turned, k * self.room + v * LANES, LANES), f"float32x{LANES}")

        for v in range(0, self.vectors, 4):
            parts, at = range(v, min(v + 4, self.vectors)), start + v * LANES
            whole = at + 4 * LANES <= pixels
            if len(parts) == 4:
                with e.when(whole):
                    store_four(e, ep, self.views, [values(part) for part in parts], n, o, at, range(4 * LANES))
            for i, part in enumerate(parts):
                inside = at + i * LANES < pixels
                with e.when(inside & ~whole if len(parts) == 4 else inside):
                    store_pixels(e, ep, self.views, values(part), n, o, at + i * LANES, LANES)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes convolutions for dot products where pixels in the lanes would leave many empty."""
    layer = DotLayer.take(ctx, node, NAME, _suits)
    if layer is None or not _possible(layer):
        return False
    x, window, rows = layer.x, layer.window, layer.rows
    height = window.output(x.dims)[1]
    block = high(height, x.pitch[1])
    row_blocks = -(-rows // BLOCK_CHANNELS)
    chunks = ctx.configs.knob(
        node.name, "chunks", 2 if block == height and row_blocks > 1 else 1, [n for n in (1, 2, 4) if n <= row_blocks]
    )

    def spec(ep: Epilogue) -> Spec:
        return Spec(x, window, rows, layer.dot, block, chunks, layer.parallel, ep)

    layer.finish(NAME, {"tile": BLOCK_CHANNELS}, spec, ", channels in the lanes")
    return True


def _possible(layer: DotLayer) -> bool:
    """Whether the kernel can compute a layer."""
    return layer.window.groups == 1 and layer.window.output(layer.x.dims)[0] == 1 and layer.dot.lanes == LANES


def _suits(layer: DotLayer) -> bool:
    """Whether so many lanes would be empty that this kernel is the fastest."""
    size = layer.window.output(layer.x.dims)
    lanes = -(-layer.x.run(size) // LANES) * LANES
    wasted = lanes * 15 >= prod(size) * 16 and prod(strip(size[2])) >= PIXELS // 2
    return wasted and layer.rows >= BLOCK_CHANNELS and prod(layer.values.shape[1:]) >= 4 * LEAST_QUADS
