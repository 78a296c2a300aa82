"""Copies a tensor from one layout to another, converting between float and 8-bit on the way.

Plain tensors are read and written with any strides, so that the rows of a linear layer can become planes and back:
in squares that are turned in registers, where there are enough rows and channels.

Bound by reading and writing memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from typing import Any

from tvm_schedules.backends.cpu.kernels.common.epilogue import PACKS, fill_borders, fill_gap, packed_bytes
from tvm_schedules.backends.cpu.kernels.common.tiles import transposed
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.layout import ALIGN, Halo
from tvm_schedules.lowering.rules.repack import NAME, Spec, Strided

__all__ = ["NAME", "Spec", "emit"]

FEW_PLANES = 8
"""Planes that are too few for threads to share them equally."""


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``source, params, target``.

    8-bit to float: ``(q - params[1]) * params[0]``. Float to 8-bit: ``clip(round(x / params[0]) + params[1],
    params[2], params[3])``, as ONNX ``DequantizeLinear`` and ``QuantizeLinear`` do.
    """
    source, target = spec.source, spec.target
    if isinstance(source, Halo) and source.phase != (1, 1, 1):
        raise ValueError(f"a repack reads planes that are not split into phases, got phase {source.phase}")

    def body(e: Emitter, *pointers: Any) -> None:
        _Code(e, spec, pointers).jobs()

    return kernel_function([("source", source.dtype), ("params", "float32"), ("target", target.dtype)], body)


@dataclass(frozen=True)
class _Phase:
    """The pixels of an image that lie in one plane of the target.

    Args:
        part: Which of the planes of a channel.
        first: The first pixel, ``(depth, height, width)``.
        size: Pixels in each dimension.
    """

    part: int
    first: tuple[int, ...]
    size: list[int]


class _Code:
    """The code of one function.

    Attributes:
        phase: Pixels of the source from one of a plane to the next, in each dimension.
        pairs: Whether even and odd pixels are read together, for a stride of two; bytes part as halves of 16-bit words.
        packs: Whether four vectors of floats become a vector of bytes by x86's instructions that saturate.
        turns: Jobs a channel.
        most: Pixels of a vector at most.
    """

    def __init__(self, e: Emitter, spec: Spec, pointers: Sequence[Any]) -> None:
        self.e, self.spec = e, spec
        source, target = spec.source, spec.target
        self.phase = target.phase if isinstance(target, Halo) else (1, 1, 1)
        # The planes of few channels are no work that threads can share equally: then a job has half of the rows.
        few = source.batch * source.channels < FEW_PLANES
        halves = isinstance(target, Halo) and target.phases > 1 and not self._filled(target, list(target.grid))
        self.turns = 2 if few and halves else 1
        self.pairs = self.phase[2] == 2 and (isinstance(source, Halo) or source.strides[4] == 1)
        both = source.dtype == target.dtype == "uint8"
        # Vectors are narrowed as wholes: bytes of a vector are made together.
        self.packs = spec.arch == "x86_64" and spec.fma and spec.vector // 4 in PACKS
        rounds = (source.dtype, target.dtype) == ("float32", "uint8")
        whole = both or (rounds and (self.packs or spec.arch == "aarch64"))
        self.most = spec.vector // (
            1 if whole and not self.pairs else 2 if self.pairs and target.dtype == "uint8" else 4
        )
        self.source = e.view(pointers[0], source.elements, source.dtype)
        self.params = e.view(pointers[1], 4, "float32")
        self.target = e.view(pointers[2], target.elements, target.dtype)
        self.tile = 16 if both else spec.vector // 4

    def jobs(self) -> None:
        """All jobs: the channels of a tile each, or a channel of an image, or a turn of it."""
        if self._turns():
            self._tiles()
        else:
            self._channels()

    def _turns(self) -> bool:
        """Whether planes without phases become rows, or rows planes, and tiles fit into them."""
        source, target, dims = self.spec.source, self.spec.target, self.spec.source.dims
        plain = [layout for layout in (source, target) if isinstance(layout, Strided)]
        rows = len(plain) == 1 and plain[0].strides[1] == 1 and plain[0].strides[4] == source.channels
        flat = dims[:2] == (1, 1) and self.phase == (1, 1, 1)
        return rows and flat and min(dims[2], source.channels) >= self.tile

    def _tiles(self) -> None:
        """Jobs of as many channels as a tile has. Tiles at an edge begin earlier: they write the same values again."""
        e, source, target, size = self.e, self.spec.source, self.spec.target, self.tile
        channels, pixels = source.channels, source.dims[2]
        blocks = -(-channels // size)
        with e.jobs(source.batch * blocks, self.spec.parallel) as job:
            n, block = job // blocks, job % blocks
            if isinstance(target, Halo):
                with e.loop(size) as i, e.when(block * size + i < channels):
                    self._surround(target, n * channels + block * size + i, [1, 1, pixels])
            first = e.min(block * size, e.integer(channels - size))
            with e.loop(-(-pixels // size)) as i:
                self._tile(n, first, e.min(e.expr(i * size), e.integer(pixels - size)))

    def _tile(self, n: Any, c: Any, p: Any) -> None:
        """Copies a square of pixels and channels; bytes are turned rather than floats where a tile has 16 of them."""
        e, source, target, size = self.e, self.spec.source, self.spec.target, self.tile

        def line(layout: Halo | Strided, i: int) -> Any:
            if isinstance(layout, Strided):
                return address(layout, n, c, (0, 0, p + i), 0)
            return address(layout, n, c + i, (0, 0, p), 0)

        early = source.dtype == "float32" and size == 16
        lines = [e.load(self.source, line(source, i), size) for i in range(size)]
        lines = [self._converted(value, size) for value in lines] if early else lines
        lines = transposed(e, lines)
        lines = lines if early else [self._converted(value, size) for value in lines]
        for i, value in enumerate(lines):
            e.store(self.target, line(target, i), value, size)

    def _channels(self) -> None:
        """Jobs of a channel of an image, or a turn of it."""
        e, source, target = self.e, self.spec.source, self.spec.target
        with e.jobs(source.batch * source.channels * self.turns, self.spec.parallel) as job:
            plane, turn = job // self.turns, job % self.turns
            n, c = plane // source.channels, plane % source.channels
            phases = [
                _Phase(part, first, [-(-(d - f) // s) for d, f, s in zip(source.dims, first, self.phase, strict=True)])
                for part, first in enumerate(product(*(range(s) for s in self.phase)))
            ]
            if isinstance(target, Halo):
                for phase in phases:
                    with e.when(turn == phase.first[1] % self.turns):
                        self._surround(target, plane * target.phases + phase.part, phase.size)
            for deep in range(self.phase[0]):
                self._rows(n, c, turn, [one for one in phases if one.first[0] == deep and min(one.size) > 0])

    def _rows(self, n: Any, c: Any, turn: Any, phases: list[_Phase]) -> None:
        """Copies the rows of a turn, in the order of the source: whoever reads memory from end to end waits least."""
        e, most = self.e, max((phase.size[1] for phase in phases), default=0)
        if not most:
            return
        share = -(-most // self.turns)
        with e.loop(phases[0].size[0]) as d, e.loop(share) as i:
            h = turn * share + i
            for phase in phases:
                if self.pairs and phase.first[2]:
                    continue
                ends = phase.size[1] < share * self.turns
                with e.when(h < phase.size[1]) if ends else nullcontext():
                    self._row(n, c, phase, d, h)

    @staticmethod
    def _filled(target: Halo, size: list[int]) -> bool:
        """Whether a plane is filled as a whole before its pixels are copied: one with short rows, or in depth."""
        return target.grid[0] > 1 or 5 * target.plane < 2 * size[1] * (ALIGN // target.itemsize)

    def _surround(self, target: Halo, plane: Any, size: list[int]) -> None:
        """Fills what of a plane is no pixel: before, behind and between rows; all of it where rows are short."""
        e, gap, lanes = self.e, target.pitch[1] - size[2], ALIGN // target.itemsize
        if min(size) <= 0 or self._filled(target, size):
            with e.loop(target.plane // lanes) as i:
                at = plane * target.plane + i * lanes
                e.store(self.target, at, e.const(target.fill, f"{target.dtype}x{lanes}"), lanes)
            return
        fill_borders(e, target, self.target, 0, plane, (size[1] - 1) * target.pitch[1] + size[2])
        with e.loop(size[1] - 1) as h:
            start = plane * target.plane + target.origin + h * target.pitch[1] + size[2]
            fill_gap(e, target, self.target, start, gap)

    def _row(self, n: Any, c: Any, phase: _Phase, d: Any, h: Any) -> None:
        """Copies a row of a plane, or of two that are read together."""
        e, source, target, size, pairs = self.e, self.spec.source, self.spec.target, phase.size, self.pairs
        step_from = (source.strides[4] if isinstance(source, Strided) else 1) * self.phase[2]
        step_to = target.strides[4] if isinstance(target, Strided) else 1
        odd = pairs and source.dims[2] % 2
        rows = (d * self.phase[0] + phase.first[0], h * self.phase[1] + phase.first[1])
        for w, width in self._vectors(size[2] - 1 if odd else size[2]):
            where = address(target, n, c, (d, h, w), phase.part)
            if pairs:
                near = e.load(self.source, address(source, n, c, (*rows, w * 2), 0), 2 * width)
                self._split(self._converted(near, 2 * width), where, width)
                continue
            at = (*rows, w * self.phase[2] + phase.first[2])
            value = e.load(self.source, address(source, n, c, at, 0), width, step_from)
            e.store(self.target, where, self._converted(value, width), width, step_to)
        if odd:
            last = e.load(self.source, address(source, n, c, (*rows, source.dims[2] - 1), 0))
            e.store(self.target, address(target, n, c, (d, h, size[2] - 1), phase.part), self._converted(last, 1))

    def _vectors(self, count: int) -> Iterator[tuple[Any, int]]:
        """Loops over ``count`` elements: start and width of vectors. The last one may do elements once more."""
        if not count:
            return
        width = min(self.most, 1 << count.bit_length() - 1)
        with self.e.loop(count // width) as i:
            yield i * width, width
        if count % width:
            yield count - width, width

    def _split(self, value: Any, where: Any, width: int) -> None:
        """Stores even pixels in one plane and odd ones in the next."""
        e, target = self.e, self.spec.target
        odd = target.plane if isinstance(target, Halo) else 0
        if target.dtype != "uint8":
            for parity in (0, 1):
                part = e.shuffle([value], list(range(parity, 2 * width, 2)))
                e.store(self.target, where + parity * odd, part, width)
            return
        words = f"uint16x{width}" if width > 1 else "uint16"
        word, small = e.bits(value, words), words.replace("uint16", "uint8")
        e.store(self.target, where, e.cast(word & e.const(255, words), small), width)
        e.store(self.target, where + odd, e.cast(word >> e.const(8, words), small), width)

    def _converted(self, value: Any, width: int) -> Any:
        """Pixels in the target's type."""
        e, source, target = self.e, self.spec.source, self.spec.target
        if source.dtype == target.dtype:
            return value
        f32 = f"float32x{width}" if width > 1 else "float32"
        u8, i32 = f32.replace("float32", "uint8"), f32.replace("float32", "int32")
        params = [e.splat(e.load(self.params, i), width) for i in range(4)]
        if target.dtype == "float32":
            return (e.cast(value, f32) - params[1]) * params[0]
        if self.spec.arch == "aarch64" and width % 8 == 0:
            return quantized_by_arm(e, value, self.params, width)
        if self.packs and width == self.spec.vector:
            return quantized_by_x86(e, value, self.params, width)
        y = e.round(quotient(e, value, params, f32) if self.spec.fma else value / params[0]) + params[1]
        y = e.min(e.max(y, params[2]), params[3])
        return e.cast(e.cast(y, i32), u8)


def quantized_by_arm(e: Emitter, value: Any, params: Any, width: int) -> Any:
    """Floats in 8 bits, by Arm's instructions that clip, round and saturate at once.

    Args:
        e: Emitter of the function.
        value: A vector of whole eights of floats.
        params: Buffer of scale, zero point and bounds.
        width: Length of the vector.
    """
    numbers = [e.splat(e.load(params, i), 4) for i in range(4)]
    zero, low, high = (e.cast(e.load(params, i), "int32") for i in range(1, 4))
    arm, shorts = "llvm.aarch64.neon.{}", []
    for at in range(0, width, 8):
        parts = []
        for begin in (at, at + 4):
            y = quotient(e, e.shuffle([value], list(range(begin, begin + 4))), numbers, "float32x4", arm=True)
            whole = e.intrinsic("int32x4", arm.format("fcvtns.v4i32.v4f32"), y)
            parts.append(e.intrinsic("int16x4", arm.format("sqxtn.v4i16"), whole))
        short = e.shuffle(parts, list(range(8))) + e.splat(e.cast(zero, "int16"), 8)
        shorts.append(e.intrinsic("uint8x8", arm.format("sqxtun.v8i8"), short))
    made = e.shuffle(shorts, list(range(width))) if width > 8 else shorts[0]
    low, high = (e.splat(e.cast(bound, "uint8"), width) for bound in (low, high))
    return e.min(e.max(made, low), high)


def quantized_by_x86(e: Emitter, value: Any, params: Any, width: int) -> Any:
    """Floats in 8 bits, by x86's instructions that round, and that narrow and saturate at once.

    Args:
        e: Emitter of the function.
        value: Four vectors of floats, one behind the other.
        params: Buffer of scale, zero point and bounds.
        width: How many floats there are.
    """
    lanes = width // 4
    numbers = [e.splat(e.load(params, i), width) for i in range(4)]
    near = e.bind(quotient(e, value, numbers, f"float32x{width}"))
    parts = [e.shuffle([near], list(range(at, at + lanes))) for at in range(0, width, lanes)]
    wide = [e.intrinsic(f"int32x{lanes}", "llvm.lrint", part) for part in parts]
    zero = e.splat(e.cast(e.load(params, 1), "int16"), 2 * lanes)
    made = packed_bytes(e, wide, range(width), plus=zero)
    low, high = (e.splat(e.cast(e.load(params, i), "uint8"), width) for i in (2, 3))
    return e.min(e.max(made, low), high)


def address(layout: Halo | Strided, n: Any, c: Any, at: tuple[Any, Any, Any], part: int) -> Any:
    """Where the pixel ``at`` of an image's channel is, in plane ``part`` of the channel."""
    if isinstance(layout, Strided):
        by = layout.strides
        return n * by[0] + c * by[1] + at[0] * by[2] + at[1] * by[3] + at[2] * by[4]
    steps = layout.steps()
    plane = ((n * layout.channels + c) * layout.phases + part) * layout.plane + layout.origin
    return plane + at[0] * steps[0] + at[1] * steps[1] + at[2] * steps[2]


def quotient(e: Emitter, value: Any, params: list[Any], f32: str, arm: bool = False) -> Any:
    """``value / scale``, correctly rounded, without a division a vector; values stay finite, just past the bounds.

    One step of correction by the remainder, which is exact: Markstein, "Computation of elementary functions on the
    IBM RISC System/6000 processor", 1990.
    """
    scale, zero, low, high = params
    one = e.const(1.0, f32)
    least, most = (low - zero - one) * scale, (high - zero + one) * scale
    if arm:  # of what LLVM makes of a comparison it does not find the instruction, for a number may be none
        above = e.intrinsic(f32, "llvm.aarch64.neon.fmaxnm.v4f32", value, least)
        value = e.bind(e.intrinsic(f32, "llvm.aarch64.neon.fminnm.v4f32", above, most))
    else:
        value = e.min(e.max(value, least), most)
    inverse = one / scale
    near = value * inverse
    return e.fma(e.fma(near, scale * e.const(-1.0, f32), value), inverse, near)
