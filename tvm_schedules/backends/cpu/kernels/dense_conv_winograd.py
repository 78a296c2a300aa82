"""3x3 convolution of bytes by Winograd's F(4x4, 3x3), exact in integers, on Arm's cores without dot products.

Tiles of 6x6 pixels are transformed, eight channels side by side, and multiplied with transformed weights: 36 products
of 16 bits where 16 pixels of nine taps take 144. The sums are transformed back, four output channels side by side. All
of that is modulo 2**32, where the factor 576 of the transforms is taken out again: see the packing of the weights.

Applies to 8-bit weights, and to ternary ones with few zeros. Bound by products.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.cpu.kernels.common.dot_product import available
from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, fill_gap, store_quads, views_of
from tvm_schedules.backends.cpu.kernels.common.tiles import zipped
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused, Windowed
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.epilogue import Epilogue, PlanesCall
from tvm_schedules.lowering.layouts import input_key
from tvm_schedules.packing.dense_conv_winograd import SCALE, STEPS, holds

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "winograd"
"""What artifacts and tuning databases call this kernel."""

CHANNELS = 8
"""Output channels a register block, and input channels a step: 16-bit lanes of a vector."""
PLACES = STEPS * STEPS
"""Products a tile of one input channel and one output channel."""
SIZE = STEPS - 2
"""Pixels that a tile writes in a row."""
MOST_TILES = 9
"""Tiles a register block at most: each has two registers of sums, and one of pixels."""
BAND_BYTES = 256 << 10
"""Bytes of transformed pixels, about: they are read once for every register block of output channels."""
JOBS = 4
"""Bands of an image at least, where threads share them and there are so many register blocks."""
INVERSE_OF_NINE = 954437177
"""Modulo 2**32."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8.
        window: Geometry.
        rows: Output channels.
        block: Tiles a register block.
        band: Register blocks of tiles a job.
        parallel: Whether threads share the jobs.
        epilogue: What follows the accumulation: scale, bias, residual, clip, rounding.
    """

    x: Halo
    window: Window
    rows: int
    block: int
    band: int
    parallel: bool
    epilogue: Epilogue

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane."""
        return self.x.run(self.epilogue.size)

    @property
    def high(self) -> int:
        """Rows of tiles; the last ones begin inside of those before them, so that they end with the image."""
        return -(-self.epilogue.size[1] // SIZE)

    @property
    def wide(self) -> int:
        """Tiles a row."""
        return -(-self.epilogue.size[2] // SIZE)

    @property
    def blocks(self) -> int:
        """Register blocks of tiles."""
        return -(-self.high * self.wide // self.block)

    @property
    def room(self) -> int:
        """Input channels, in whole steps."""
        return -(-self.x.channels // CHANNELS) * CHANNELS


class _Wrapping:
    """Arithmetic of int32 modulo 2**32: TIR's own operators promise LLVM that there is no overflow."""

    def __init__(self, e: Emitter) -> None:
        self.e = e

    def _call(self, name: str, a: Any, b: Any) -> Any:
        e = self.e
        every, lanes = e.const(True, "boolx4"), e.integer(4)
        return e.bind(e.intrinsic("int32x4", f"llvm.vp.{name}.v4i32", a, b, every, lanes))

    def add(self, a: Any, b: Any) -> Any:
        return self._call("add", a, b)

    def sub(self, a: Any, b: Any) -> Any:
        return self._call("sub", a, b)

    def times(self, a: Any, factor: int) -> Any:
        return self._call("mul", a, self.e.const(factor, "int32x4"))


def pixels_transformed(e: Emitter, d: list[Any]) -> list[Any]:
    """One dimension of the transform of pixels: six vectors of int16 in, six out, of at most ten times the size."""

    def times(value: Any, bits: int) -> Any:
        return value << e.const(bits, "int16x8")

    far, near = e.bind(d[4] - times(d[2], 2)), e.bind(d[3] - times(d[1], 2))
    even, odd = e.bind(d[4] - d[2]), e.bind(d[3] - d[1])
    double = e.bind(odd + odd)
    first = e.bind(times(d[0] - d[2], 2) + even)
    last = e.bind(d[5] - d[3] - times(odd, 2))
    return [first, *(e.bind(v) for v in (far + near, far - near, even + double, even - double)), last]


def sums_transformed(w: _Wrapping, m: list[Any]) -> list[Any]:
    """One dimension of the transform of sums: six vectors of int32 in, four out, :data:`SCALE` times the sums."""
    s, d, t, u = w.add(m[1], m[2]), w.sub(m[1], m[2]), w.add(m[3], m[4]), w.sub(m[3], m[4])
    s4, d4 = w.times(s, SCALE // 6), w.times(d, SCALE // 6)
    return [
        w.add(w.add(w.times(m[0], SCALE // 4), s4), t),
        w.add(d4, w.times(u, 2)),
        w.add(s4, w.times(t, 4)),
        w.add(w.add(d4, w.times(u, 8)), w.times(m[5], SCALE)),
    ]


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, values, <epilogue>``."""

    def body(e: Emitter, *pointers: Any) -> None:
        _Code(e, spec, pointers).jobs()

    return kernel_function([("x", "uint8"), ("values", "int16"), *spec.epilogue.arguments], body)


class _Code:
    """The code of one function."""

    def __init__(self, e: Emitter, spec: Spec, pointers: tuple[Any, ...]) -> None:
        self.e, self.spec, self.wrapping = e, spec, _Wrapping(e)
        self.row_blocks, self.tiles = -(-spec.rows // CHANNELS), spec.band * spec.block
        self.x = e.view(pointers[0], spec.x.elements + 16, "uint8")
        self.values = e.view(pointers[1], self.row_blocks * PLACES * spec.room * CHANNELS, "int16")
        self.views = views_of(e, spec.epilogue, list(pointers[2:]), spec.rows, spec.pixels)

    def jobs(self) -> None:
        """All jobs: a band of tiles of an image each."""
        e, spec, bands = self.e, self.spec, -(-self.spec.blocks // self.spec.band)
        with e.jobs(spec.x.batch * bands, spec.parallel) as job:
            n, band = job // bands, job % bands
            pixels = e.scratch(PLACES * self.tiles * spec.room, "int16")
            sums = e.scratch(PLACES * self.tiles * CHANNELS, "int32")
            count = e.bind(e.min(e.integer(spec.band), e.integer(spec.blocks) - band * spec.band))
            with e.loop(count * spec.block) as t, e.loop(spec.room // CHANNELS) as step:
                self._fill(pixels, t, self._corner(band, t), n, step * CHANNELS)
            with e.loop(self.row_blocks) as block:
                with e.loop(PLACES) as place, e.loop(count) as strip:
                    self._multiply(pixels, sums, block, place, strip * spec.block)
                o, full = block * CHANNELS, spec.rows // CHANNELS
                with e.loop(count * spec.block) as t:
                    if full:
                        with e.when(block < full):
                            self._finish(sums, t, self._corner(band, t), n, o, CHANNELS)
                    if spec.rows % CHANNELS:
                        with e.when(block == full):
                            self._finish(sums, t, self._corner(band, t), n, o, spec.rows % CHANNELS)
                with e.loop(e.min(e.integer(CHANNELS), e.integer(spec.rows) - o)) as i:
                    self._borders(n, o + i, band, bands)

    def _corner(self, band: Any, t: Any) -> Any:
        """The first pixel of a band's tile; past the last tile that of the last one, which is computed again."""
        e, spec, (_, height, width) = self.e, self.spec, self.spec.epilogue.size
        at = e.bind(e.min(band * self.tiles + t, e.integer(spec.high * spec.wide - 1)))
        row = e.min(at // spec.wide * SIZE, e.integer(height - SIZE))
        return e.bind(row * spec.x.pitch[1] + e.min(at % spec.wide * SIZE, e.integer(width - SIZE)))

    def _fill(self, memory: Any, t: Any, corner: Any, n: Any, channel: Any) -> None:
        """Transforms the pixels of a tile of eight channels."""
        e, spec, x = self.e, self.spec, self.spec.x
        (_, top), (_, left) = ((0, -pads[0]) for pads in spec.window.pads[1:])
        start = e.bind(n * (x.channels * x.plane) + x.offset(0, (0, 0, 0), (0, top, left)) + corner)
        planes = [
            e.bind(start + e.min(channel + k, e.integer(x.channels - 1)) * x.plane)
            if x.channels % CHANNELS
            else start + (channel + k) * x.plane
            for k in range(CHANNELS)
        ]
        rows = []
        for r in range(STEPS):
            read = [e.load(self.x, plane + r * x.pitch[1], 16) for plane in planes]
            pairs = [e.bits(pair ^ e.const(128, "uint8x16"), "int8x16") for pair in zipped(e, read)[: STEPS // 2]]
            halves = [e.shuffle([pair], list(range(8 * h, 8 * h + 8))) for pair in pairs for h in (0, 1)]
            rows.append(pixels_transformed(e, [e.bind(e.cast(half, "int16x8")) for half in halves]))
        for c, column in enumerate(zip(*rows, strict=True)):
            for r, value in enumerate(pixels_transformed(e, list(column))):
                e.store(memory, ((r * STEPS + c) * self.tiles + t) * spec.room + channel, value, CHANNELS)

    def _multiply(self, pixels: Any, sums: Any, block: Any, place: Any, first: Any) -> None:
        """The sums of a register block: one place of some tiles, from tile ``first`` on, in eight output channels."""
        e, spec, add = self.e, self.spec, self.wrapping.add
        acc = [[e.local(4, "int32") for _ in range(2)] for _ in range(spec.block)]
        for part in (part for row in acc for part in row):
            e.store(part, 0, e.const(0, "int32x4"), 4)
        begin = e.bind((block * PLACES + place) * (spec.room * CHANNELS))
        tiles = e.bind((place * self.tiles + first) * spec.room)
        with e.loop(spec.room // CHANNELS) as step:
            columns = [
                e.bind(e.load(pixels, tiles + t * spec.room + step * CHANNELS, CHANNELS)) for t in range(spec.block)
            ]
            for k in range(CHANNELS):
                weights = e.bind(e.load(self.values, begin + (step * CHANNELS + k) * CHANNELS, CHANNELS))
                halves = [e.shuffle([weights], list(range(4 * h, 4 * h + 4))) for h in (0, 1)]
                for row, column in zip(acc, columns, strict=True):
                    pixel = e.shuffle([column], [k] * 4)
                    for part, half in zip(row, halves, strict=True):
                        product = e.intrinsic("int32x4", "llvm.aarch64.neon.smull.v4i32", half, pixel)
                        e.store(part, 0, add(e.load(part, 0, 4), product), 4)
        for t, row in enumerate(acc):
            for h, part in enumerate(row):
                e.store(sums, ((place * self.tiles + first + t) * 2 + h) * 4, e.load(part, 0, 4), 4)

    def _finish(self, sums: Any, t: Any, corner: Any, n: Any, o: Any, channels: int) -> None:
        """Transforms the sums of a tile of up to eight output channels, and writes its pixels."""
        e, w, pitch = self.e, self.wrapping, self.spec.x.pitch[1]
        for h in range(-(-channels // 4)):
            columns = []
            for c in range(STEPS):
                found = [
                    e.bind(e.load(sums, (((r * STEPS + c) * self.tiles + t) * 2 + h) * 4, 4)) for r in range(STEPS)
                ]
                columns.append(sums_transformed(w, found))
            for r, row in enumerate(zip(*columns, strict=True)):
                exact = [
                    w.times(value, INVERSE_OF_NINE) >> e.const(6, "int32x4") for value in sums_transformed(w, list(row))
                ]
                end = (n, o + 4 * h, corner + r * pitch, min(4, channels - 4 * h))
                store_quads(e, self.spec.epilogue, self.views, exact, *end)

    def _borders(self, n: Any, o: Any, band: Any, bands: int) -> None:
        """Writes the halo of a plane, between the rows of the image too."""
        e, out, (_, height, width) = self.e, self.spec.epilogue.out, self.spec.epilogue.size
        fill_borders(e, out, self.views["out"], n, o, self.spec.pixels, block=band, blocks=bands)
        gap = out.pitch[1] - width
        if gap and height > 1:
            with e.when(band == bands - 1), e.loop(height - 1) as row:
                begin = (n * out.channels + o) * out.plane + out.origin + row * out.pitch[1] + width
                fill_gap(e, out, self.views["out"], begin, gap)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes 3x3 convolutions of one group, stride and dilation with 8-bit weights, or ternary ones of few zeros."""
    if not ctx.target.arm64 or available(ctx.target) is not None or not isinstance(node, Windowed):
        return False
    weight, window = node.weight, node.window
    if weight is None or ctx.graph.values[node.inputs[0]].dtype != "uint8":
        return False
    ones = (1, 1, 1)
    if window.kernel != (1, 3, 3) or (window.strides, window.dilations, window.groups) != (ones, ones, 1):
        return False
    if isinstance(weight, TernaryTensor):
        if weight.terms > 1 or not weight.is_symmetric:
            return False
        values, level, arrays = weight.codes[0], weight.per_channel.positive[0], weight.stored
        stored, zeros = weight.nbytes(), weight.sparsity()
    else:
        values, level, arrays = weight.values, weight.scale, {"values": weight.values}
        stored, zeros = values.nbytes, None
    key = input_key(ctx.graph, node)
    x, (rows, fan) = ctx.layouts[key], values.shape[:2]
    size = window.output(x.dims)
    if values.dtype != np.int8 or size[0] != 1 or min(size[1:]) < SIZE or not holds(values):
        return False
    tiles = prod(-(-n // SIZE) for n in size)
    if not ctx.configs.selects(node.name, NAME, _cheaper(tiles, fan, rows, prod(size), zeros)):
        return False
    block = ctx.configs.knob(node.name, "block", _block(tiles), range(1, min(tiles, MOST_TILES) + 1))
    blocks = -(-tiles // block)
    macs = values.size * x.batch * prod(size)
    parallel = macs > ctx.serial * 16
    most = max(1, BAND_BYTES // (PLACES * block * fan * 2))
    bands = max(-(-blocks // most), min(JOBS, blocks) if parallel else 1)
    band = ctx.configs.knob(node.name, "band", -(-blocks // bands), [n for n in (1, 2, 4, 8) if n <= blocks])
    source, quant = ctx.packed(key), ctx.input_quant(node)
    factor = level.astype(np.float64) * quant.scale * node.scale
    sums = values.reshape(rows, -1).astype(np.float64).sum(1)
    numbers = ctx.numbers(node, factor, node.bias - (quant.zero_point - 128) * factor * sums)
    params = {"shape": [1, *values.shape], "tile": CHANNELS}
    made = ctx.constants.add(node.name, "winograd", arrays, params)
    end = ctx.destination(node, False, x)
    spec = Spec(x, window, rows, block, band, parallel, end.epilogue)
    few = "" if zeros is None else f"{zeros:.1%} zeros are too few to skip: "
    reason = f"{few}Winograd, a quarter of the products, in integers"
    nonzero = round(macs * (1 - (zeros or 0.0)))
    info = {"macs": macs, "nonzero_macs": nonzero, "bytes_weights": stored, "reason": reason}
    ctx.report(node, weight, NAME, reason)
    ctx.add_planes(node, PlanesCall(NAME, spec, [source, made["values"]], numbers, end, info))
    return True


def _block(tiles: int) -> int:
    """Tiles a register block: those with the fewest instructions for all tiles, the last block's empty ones too."""
    return min(range(1, min(tiles, MOST_TILES) + 1), key=lambda n: -(-tiles // n) * (17 * n + 11))


def _cheaper(tiles: int, fan: int, rows: int, pixels: int, zeros: float | None) -> bool:
    """Whether there are fewer instructions than for products of every tap, or additions of those that are not zero."""
    steps, blocks = -(-fan // CHANNELS), -(-rows // CHANNELS)
    block = _block(tiles)
    own = tiles * (steps * 450 + blocks * 700 + PLACES * blocks * steps * (17 + 11 / block))
    other = 1.9 * fan if zeros is None else 2.0 * fan * (1 - zeros)
    return own < other * rows * pixels
