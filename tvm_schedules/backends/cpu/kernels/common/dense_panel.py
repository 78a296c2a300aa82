"""Dense 8-bit convolutions over a panel of pixels on Arm: what the kernels of dot products and without them share.

A band of pixels is copied into a panel, a few channels side by side, which all output channels and all taps then read:
a tap is a shift in it. A register block is some pixels of a few output channels. Its sums, four channels of a pixel a
register, are transposed for the epilogue.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tvm_schedules.backends.cpu.kernels.common.dot_product import Dot
from tvm_schedules.backends.cpu.kernels.common.epilogue import (
    fill_borders,
    store_quads,
    views_of,
)
from tvm_schedules.backends.cpu.kernels.common.tiles import zipped
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.lowering.epilogue import Epilogue
from tvm_schedules.packing.dense_conv_panel import Panel

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["Spec", "emit", "panel_of", "panel_params"]

PANEL_BYTES = 32 << 10
"""Bytes of a panel, about: it is read once for every register block of output channels."""
JOBS = 4
"""Bands of an image at least, where threads share them."""
UNROLL = 2
"""Steps of one tap in the body of a loop."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8.
        window: Geometry.
        rows: Output channels.
        bytes_: Bytes side by side: 4 for dot products, 8 for products of matrices of 2x8 and 8x2 bytes (i8mm), 16 for
            products that are added up in 16 bits.
        dot: The dot product, where there is one.
        shared: Whether streams are shared by taps, see :class:`~tvm_schedules.packing.dense_conv_panel.Panel`.
        band: Register blocks of pixels a band.
        parallel: Whether threads share the jobs.
        epilogue: What follows the accumulation: scale, bias, residual, clip, rounding.
    """

    x: Halo
    window: Window
    rows: int
    bytes_: int
    dot: Dot | None
    shared: bool
    band: int
    parallel: bool
    epilogue: Epilogue

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane: whole vectors."""
        return -(-self.x.run(self.epilogue.size) // 4) * 4

    @property
    def panel(self) -> Panel:
        """What is copied."""
        return Panel(self.x, self.window, self.bytes_, self.shared)

    @property
    def length(self) -> int:
        """Pixels of a stream."""
        return stream_length(self.band * self.strip, self.panel)

    @property
    def bands(self) -> int:
        """Bands of an image."""
        return -(-self.pixels // (self.strip * self.band))

    @property
    def strip(self) -> int:
        """Pixels a register block."""
        return BLOCKS[self.bytes_].PIXELS

    @property
    def tile(self) -> int:
        """Output channels a register block."""
        return BLOCKS[self.bytes_].CHANNELS

    @property
    def signed(self) -> bool:
        """Whether pixels enter minus 128."""
        return self.dot is None or self.dot.signed

    @property
    def per_group(self) -> int:
        """Output channels a group."""
        return self.rows // self.window.groups


def stream_length(pixels: int, panel: Panel) -> int:
    """Pixels of a stream for a band of so many, in whole vectors of bytes."""
    return -(-(pixels + panel.reach) // 16) * 16


class _Block(ABC):
    """The sums of a register block.

    Attributes:
        PIXELS: Its pixels.
        CHANNELS: Its output channels.
        LEAST: So many of them a band at least, or the halo is much of what is copied.
    """

    PIXELS: ClassVar[int]
    CHANNELS: ClassVar[int]
    LEAST: ClassVar[int]

    @abstractmethod
    def __init__(self, e: Emitter, dot: Dot | None, pixels: int, channels: int) -> None: ...

    @abstractmethod
    def step(self, panel: Any, at: Any, values: Any, first: Any, width: int) -> None:
        """Adds ``width`` neighboring taps: pixels from byte ``at`` of the panel on, weights from byte ``first`` on."""

    @abstractmethod
    def sums(self, quad: int) -> list[Any]:
        """The sums of four output channels, int32, one vector a pixel."""


class _Dots(_Block):
    """Sums by dot products: four channels of a pixel a register."""

    PIXELS, CHANNELS, LEAST = 12, 8, 3

    def __init__(self, e: Emitter, dot: Dot | None, pixels: int, channels: int) -> None:
        assert dot is not None
        self.e, self.dot, self.pixels, self.quads = e, dot, pixels, channels // 4
        self.acc = [[e.local(4, "int32") for _ in range(self.quads)] for _ in range(pixels)]
        for part in (part for row in self.acc for part in row):
            e.store(part, 0, e.const(0, "int32x4"), 4)

    def step(self, panel: Any, at: Any, values: Any, first: Any, width: int) -> None:
        e = self.e
        vectors = -(-(self.pixels + width - 1) // 4)
        pixels = [e.load(panel, at + 16 * v, 16) for v in range(vectors)]
        for tap in range(width):
            start = first + tap * self.quads * 16
            weights = [e.load(values, start + 16 * q, 16) for q in range(self.quads)]
            for p, row in enumerate(self.acc):
                four, element = divmod(p + tap, 4)
                for part, weight in zip(row, weights, strict=True):
                    e.store(part, 0, self.dot.by_element(e, e.load(part, 0, 4), weight, pixels[four], element), 4)

    def sums(self, quad: int) -> list[Any]:
        return [self.e.load(row[quad], 0, 4) for row in self.acc]


class _Matrices(_Block):
    """Sums by products of matrices: two channels of two pixels a register."""

    PIXELS, CHANNELS, LEAST = 8, 8, 3  # fewer pixels, which take more registers

    def __init__(self, e: Emitter, dot: Dot | None, pixels: int, channels: int) -> None:
        self.e, self.pixels, self.pairs = e, pixels, channels // 2
        self.acc = [[e.local(4, "int32") for _ in range(self.pairs)] for _ in range(pixels // 2)]
        for part in (part for row in self.acc for part in row):
            e.store(part, 0, e.const(0, "int32x4"), 4)

    def step(self, panel: Any, at: Any, values: Any, first: Any, width: int) -> None:
        e, name = self.e, "llvm.aarch64.neon.usmmla.v4i32.v16i8"
        for tap in range(width):
            start = first + tap * self.pairs * 16
            weights = [e.load(values, start + 16 * q, 16) for q in range(self.pairs)]
            for p, row in enumerate(self.acc):
                pixel = e.bits(e.load(panel, at + 8 * tap + 16 * p, 16), "int8x16")
                for part, weight in zip(row, weights, strict=True):
                    e.store(part, 0, e.intrinsic("int32x4", name, e.load(part, 0, 4), pixel, weight), 4)

    def sums(self, quad: int) -> list[Any]:
        pairs = [[self.e.load(part, 0, 4) for part in row[2 * quad : 2 * quad + 2]] for row in self.acc]
        return [self.e.shuffle(pair, [k, k + 1, k + 4, k + 5]) for pair in pairs for k in (0, 2)]


class _Widened(_Block):
    """Sums of products of bytes, of which 16 bits hold two: four parts of a channel of a pixel a register."""

    PIXELS, CHANNELS, LEAST = 4, 4, 9

    def __init__(self, e: Emitter, dot: Dot | None, pixels: int, channels: int) -> None:
        self.e, self.pixels, self.channels = e, pixels, channels
        self.acc = [[e.local(4, "int32") for _ in range(channels)] for _ in range(pixels)]
        for part in (part for row in self.acc for part in row):
            e.store(part, 0, e.const(0, "int32x4"), 4)

    def step(self, panel: Any, at: Any, values: Any, first: Any, width: int) -> None:
        e = self.e
        pixels = [self._halves(e.load(panel, at + 16 * p, 16)) for p in range(self.pixels + width - 1)]
        for tap in range(width):
            start = first + tap * self.channels * 16
            weights = [self._halves(e.load(values, start + 16 * c, 16)) for c in range(self.channels)]
            for p, row in enumerate(self.acc):
                for part, weight in zip(row, weights, strict=True):
                    low, high = (
                        e.intrinsic("int16x8", "llvm.aarch64.neon.smull.v8i16", *pair)
                        for pair in zip(weight, pixels[p + tap], strict=True)
                    )
                    pairs = e.intrinsic("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", low + high)
                    e.store(part, 0, e.load(part, 0, 4) + pairs, 4)

    def _halves(self, vector: Any) -> list[Any]:
        whole = self.e.bind(self.e.bits(vector, "int8x16"))
        return [self.e.shuffle([whole], list(range(at, at + 8))) for at in (0, 8)]

    def sums(self, quad: int) -> list[Any]:
        e, found = self.e, []
        for row in self.acc:
            parts = [e.load(part, 0, 4) for part in row[4 * quad : 4 * quad + 4]]
            while len(parts) > 1:
                pairs = zip(parts[::2], parts[1::2], strict=True)
                parts = [e.bind(e.intrinsic("int32x4", "llvm.aarch64.neon.addp.v4i32", *pair)) for pair in pairs]
            found += parts
        return found


BLOCKS: dict[int, type[_Block]] = {4: _Dots, 8: _Matrices, 16: _Widened}
"""By bytes side by side."""


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, values, steps, streams, <epilogue>``."""

    def body(e: Emitter, *pointers: Any) -> None:
        _Code(e, spec, pointers).jobs()

    arguments = [("x", "uint8"), ("values", "int8"), ("steps", "int32"), ("streams", "int32")]
    return kernel_function([*arguments, *spec.epilogue.arguments], body)


class _Code:
    """The code of one function."""

    def __init__(self, e: Emitter, spec: Spec, pointers: tuple[Any, ...]) -> None:
        self.e, self.spec = e, spec
        self.panel, self.size, self.length = spec.panel, spec.panel.bytes_, spec.length
        self.per_group, members = spec.per_group, len(self.panel.members)
        self.per_channel = members * self.size
        self.group_bytes = -(-self.per_group // 4) * 4 * self.per_channel
        x = spec.x
        self.x = e.view(pointers[0], x.elements + spec.pixels + x.plane, "uint8")
        self.values = e.view(pointers[1], spec.window.groups * self.group_bytes, "int8")
        self.steps = e.view(pointers[2], len(self.panel.steps), "int32")
        self.streams = e.view(pointers[3], len(self.panel.streams) * self.size, "int32")
        self.views = views_of(e, spec.epilogue, list(pointers[4:]), spec.rows, spec.pixels)

    def jobs(self) -> None:
        """All jobs: a band of pixels of a group each."""
        e, spec, x, groups = self.e, self.spec, self.spec.x, self.spec.window.groups
        image, share = x.channels * x.phases * x.plane, x.channels // groups * x.phases * x.plane
        with e.jobs(x.batch * groups * spec.bands, spec.parallel) as job:
            place, rest = job % spec.bands, job // spec.bands
            group, n, start = rest % groups, rest // groups, place * (spec.band * spec.strip)
            memory = e.scratch(len(self.panel.streams) * self.size * self.length, "uint8")
            self._fill(memory, n * image + group * share + start, start)
            tile = spec.tile
            full, rest_of = divmod(self.per_group, tile)
            if full:
                with e.loop(full) as block:
                    self._channels(memory, n, group, place, block * tile, tile)
            if rest_of:
                self._channels(memory, n, group, place, e.integer(full * tile), rest_of)

    def _fill(self, memory: Any, base: Any, start: Any) -> None:
        """Copies a band's pixels, channels side by side."""
        e, size = self.e, self.size
        needed = (self.spec.pixels + self.panel.reach + 15 - start) // 16  # no more than there is, in the last band
        with e.loop(len(self.panel.streams)) as s:
            places = [e.bind(e.load(self.streams, s * size + k) + base) for k in range(size)]
            with e.loop(e.min(e.integer(self.length // 16), needed)) as i:
                rows = [e.load(self.x, place + i * 16, 16) for place in places]
                if self.spec.signed:
                    rows = [row ^ e.const(128, "uint8x16") for row in rows]
                for v, value in enumerate(zipped(e, rows)):
                    e.store(memory, (s * self.length + i * 16) * size + v * 16, value, 16)

    def _channels(self, memory: Any, n: Any, group: Any, place: Any, inner: Any, channels: int) -> None:
        """A band of a register block of output channels, from the group's channel ``inner`` on."""
        e, spec, ep = self.e, self.spec, self.spec.epilogue
        full, tail = divmod(spec.pixels, spec.strip)
        first, o = group * self.group_bytes + inner * self.per_channel, group * self.per_group + inner
        with e.loop(e.min(e.integer(spec.band), full - place * spec.band)) as strip:
            self._strip(memory, n, o, first, place * (spec.band * spec.strip), strip * spec.strip, channels, spec.strip)
        if tail:
            last = full * spec.strip - (spec.bands - 1) * spec.band * spec.strip
            with e.when(place == spec.bands - 1):
                begin = e.integer((spec.bands - 1) * spec.band * spec.strip)
                self._strip(memory, n, o, first, begin, e.integer(last), channels, tail)
        where = {"planes": channels, "block": place, "blocks": spec.bands}
        fill_borders(e, ep.out, self.views["out"], n, o, spec.pixels, **where)

    def _strip(
        self, memory: Any, n: Any, o: Any, first: Any, begin: Any, strip: Any, channels: int, pixels: int
    ) -> None:
        """A register block: the band begins at pixel ``begin``, and the block at pixel ``strip`` of the band."""
        e, spec, size = self.e, self.spec, self.size
        block = BLOCKS[size](e, spec.dot, pixels, -(-channels // 4) * 4)
        each = -(-channels // 4) * 4 * size
        steps, taps, begins = 0, 0, strip * size
        for width, count in self.panel.widths:
            many = UNROLL if width == 1 else 1
            with e.loop(count // many) as t:
                for k in range(many):
                    place = t * many + k
                    block.step(
                        memory,
                        self._place(place + steps) + begins,
                        self.values,
                        first + (place * width + taps) * each,
                        width,
                    )
            for k in range(count // many * many, count):
                block.step(memory, self._place(steps + k) + begins, self.values, first + (k + taps) * each, width)
            steps, taps = steps + count, taps + count * width
        for quad in range(-(-channels // 4)):
            end = (n, o + 4 * quad, begin + strip, min(4, channels - 4 * quad))
            store_quads(e, spec.epilogue, self.views, block.sums(quad), *end)

    def _place(self, step: Any) -> Any:
        """Where a step begins in the panel."""
        return step * (self.length * self.size) if self.panel.uniform else self.e.load(self.steps, step)


def panel_of(
    ctx: Lowering, name: str, x: Halo, window: Window, rows: int, bytes_: int, parallel: bool
) -> tuple[Panel, int]:
    """What a layer's panel holds, and how many register blocks of pixels a band has.

    Args:
        ctx: The lowering.
        name: The layer.
        x: Layout of the input.
        window: Geometry.
        rows: Output channels.
        bytes_: Bytes side by side.
        parallel: Whether threads share the jobs.
    """
    panel, block = Panel.best(x, window, bytes_, rows // window.groups), BLOCKS[bytes_]
    strips = -(-x.run(window.output(x.dims)) // block.PIXELS)
    per_pixel = len(panel.streams) * bytes_
    most = max(block.LEAST, (PANEL_BYTES // per_pixel - panel.reach) // block.PIXELS)
    bands = -(-strips // most)
    if parallel:
        bands = max(bands, min(JOBS, strips // block.LEAST))
    usual = -(-strips // max(1, bands))
    sizes = (n * block.LEAST for n in (1, 2, 4, 8, 16))
    return panel, ctx.configs.knob(name, "band", usual, [n for n in sizes if n <= strips])


def panel_params(panel: Panel, band: int) -> dict[str, Any]:
    """Arguments of the packing ``dense_panel`` beside geometry and shape."""
    block = BLOCKS[panel.bytes_]
    length = stream_length(band * block.PIXELS, panel)
    return {"bytes": panel.bytes_, "shared": panel.shared, "length": length, "tile": block.CHANNELS}
