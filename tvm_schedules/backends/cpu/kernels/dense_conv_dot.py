"""Dense 8-bit convolution with x86's four-way dot products (AVX-512 VNNI).

Four taps a lane: for a block of pixels the bytes of each four taps are interleaved once into a panel, which all
output channels then read.

Applies to 8-bit activations with 8-bit weights, or ternary ones with too few zeros to skip. Bound by dot products: a
block of pixels is interleaved once for all output channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.kernels.common.dot_layer import DotLayer
from tvm_schedules.backends.cpu.kernels.common.dot_product import Dot
from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, fours, store_four, store_pixels, views_of
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused
from tvm_schedules.ir.layout import ALIGN, Halo, Window
from tvm_schedules.lowering.epilogue import Epilogue

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "interleaved", "lower"]

NAME = "dense_dot"
"""What artifacts and tuning databases call this kernel."""


QUADS_AHEAD = 1024
"""How many groups of four weights ahead they are fetched, where a vector is a cache line: all rows of a late layer do
not fit the second-level cache."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8.
        window: Geometry.
        rows: Output channels.
        dot: The dot product.
        block: Vectors a pixel block.
        tile: Output channels a register block.
        parallel: Whether threads share the jobs.
        epilogue: What follows the accumulation: scale, bias, residual, clip, rounding.
    """

    x: Halo
    window: Window
    rows: int
    dot: Dot
    block: int
    tile: int
    parallel: bool
    epilogue: Epilogue

    @property
    def vectors(self) -> int:
        """Vectors of pixels that the kernel stores in a plane."""
        return -(-self.x.run(self.epilogue.size) // self.dot.lanes)

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane."""
        return self.vectors * self.dot.lanes

    @property
    def quads(self) -> int:
        """Groups of four taps of one output channel."""
        return -(-self.x.channels // self.window.groups * prod(self.window.kernel) // 4)


def interleaved(e: Emitter, taps: list[Any], width: int) -> list[Any]:
    """The bytes of four taps side by side, pixel after pixel; in which order, :func:`.epilogue.fours` tells.

    By what x86 calls unpacking: bytes first, pairs of them then, within every 16 bytes.
    """

    def zipped(a: Any, b: Any, size: int) -> list[Any]:
        orders: list[list[int]] = [[], []]
        for lane in range(0, width, 16):
            for at in range(0, 16, size):
                orders[at // 8] += [v * width + lane + at + k for v in range(2) for k in range(size)]
        return [e.shuffle([a, b], order) for order in orders]

    first, second, third, fourth = taps
    pairs = zip(zipped(first, second, 1), zipped(third, fourth, 1), strict=True)
    return [quad for low, high in pairs for quad in zipped(low, high, 2)]


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, values, offsets, <epilogue>``."""
    ep, x, window, tile, lanes = spec.epilogue, spec.x, spec.window, spec.tile, spec.dot.lanes
    i32, f32, bytes_ = f"int32x{lanes}", f"float32x{lanes}", 4 * lanes
    per_group, fan = spec.rows // window.groups, x.channels // window.groups
    row_blocks, quads = -(-per_group // tile), spec.quads
    full, tail = divmod(spec.vectors, spec.block)
    blocks = full + bool(tail)
    image = x.channels * x.phases * x.plane
    order = [tap * lanes + lane for lane in range(lanes) for tap in range(4)]

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], x.elements + spec.pixels + spec.block * lanes, "uint8")
        values = e.view(pointers[1], window.groups * row_blocks * quads * tile, "int32")
        offsets = e.view(pointers[2], quads * 4, "int32")
        views = views_of(e, ep, list(pointers[3:]), spec.rows, spec.pixels)

        def quad(places: list[Any], vectors: int) -> list[Any]:
            """Four taps of a block's pixels side by side."""
            if vectors == 4:
                return interleaved(e, [e.load(bx, place, bytes_) for place in places], bytes_)
            parts = [[e.load(bx, place + v * lanes, lanes) for place in places] for v in range(vectors)]
            return [e.shuffle(part, order) for part in parts]

        def fill(panel: Any, base: Any, vectors: int) -> None:
            with e.loop(quads) as q:
                places = [e.load(offsets, q * 4 + t) + base for t in range(4)]
                for v, value in enumerate(quad(places, vectors)):
                    e.store(panel, (q * vectors + v) * bytes_, spec.dot.pixels(e, value), bytes_)

        def rows(panel: Any, n: Any, group: Any, place: Any, row_block: Any, vectors: int) -> None:
            start = place * (lanes * spec.block)
            acc = [e.local(vectors * lanes, "int32") for _ in range(tile)]
            for part in acc:
                for v in range(vectors):
                    e.store(part, v * lanes, e.const(0, i32), lanes)
            first = (group * row_blocks + row_block) * (quads * tile)
            with e.loop(quads) as q:
                if bytes_ == ALIGN:
                    e.prefetch(values, first + q * tile + QUADS_AHEAD)
                pixels = [e.load(panel, (q * vectors + v) * bytes_, bytes_) for v in range(vectors)]
                for i, part in enumerate(acc):
                    weight = e.bits(e.splat(e.load(values, first + q * tile + i), lanes), f"int8x{bytes_}")
                    for v, pixel in enumerate(pixels):
                        old = e.load(part, v * lanes, lanes)
                        e.store(part, v * lanes, spec.dot(e, old, pixel, weight), lanes)
            for i, part in enumerate(acc):
                inner = row_block * tile + i
                with e.when(inner < per_group):
                    o = group * per_group + inner
                    sums = [e.cast(e.load(part, v * lanes, lanes), f32) for v in range(vectors)]
                    if vectors == 4:
                        store_four(e, ep, views, sums, n, o, start, fours(lanes))
                    else:
                        for v, value in enumerate(sums):
                            store_pixels(e, ep, views, value, n, o, start + v * lanes, lanes)
                    fill_borders(e, ep.out, views["out"], n, o, spec.pixels, block=place, blocks=blocks)

        with e.jobs(x.batch * window.groups * blocks, spec.parallel) as job:
            place, rest = job % blocks, job // blocks
            group, n, start = rest % window.groups, rest // window.groups, place * (lanes * spec.block)
            panel = e.scratch(quads * spec.block * bytes_, "uint8")
            for vectors, here in ((spec.block, place < full), (tail, place == full)):
                if vectors and (full or vectors == tail):
                    with e.when(here):
                        fill(panel, n * image + group * (fan * x.phases * x.plane) + start, vectors)
                        with e.loop(row_blocks) as row_block:
                            rows(panel, n, group, place, row_block, vectors)

    return kernel_function([("x", "uint8"), ("values", "int32"), ("offsets", "int32"), *ep.arguments], body)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes 8-bit convolutions with 8-bit weights, and with ternary ones that have too few zeros for adding up taps."""
    layer = DotLayer.take(ctx, node, NAME, lambda layer: True)
    if layer is None or layer.dot.arm:
        return False
    x, window, dot = layer.x, layer.window, layer.dot
    per_group = layer.rows // window.groups
    most, size = _blocks(-(-x.run(window.output(x.dims)) // dot.lanes))
    usual = -(-per_group // -(-per_group // most))
    tile = ctx.configs.knob(node.name, "tile", usual, [t for t in (4, 6, 8, 12, 14) if t <= per_group])
    block = ctx.configs.knob(node.name, "block", size, (1, 2, 3, 4))
    layer.finish(NAME, {"tile": tile}, lambda ep: Spec(x, window, layer.rows, dot, block, tile, layer.parallel, ep))
    return True


BLOCKS = {4: (4, 1.0), 3: (8, 1.1), 2: (14, 1.05), 1: (14, 1.2)}
"""By vectors of pixels a register block: its output channels, and the time of a multiply-add (AVX-512; measured)."""


def _blocks(vectors: int) -> tuple[int, int]:
    """Output channels and vectors of pixels a register block, for an image of so many vectors."""

    def time(size: int) -> float:
        blocks = -(-vectors // size)
        # Of few blocks an odd one is waited for by a second thread: a tenth is what the first one may lose for it.
        return blocks * size * BLOCKS[size][1] * (1.1 if blocks % 2 and blocks < 9 else 1.0)

    block = min(BLOCKS, key=time)
    return BLOCKS[block][0], block
