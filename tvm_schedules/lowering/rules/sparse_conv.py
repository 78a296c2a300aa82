"""Rule of the offset-sparse ternary convolution: every ternary layer in planes that no better kernel takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from tvm_schedules.ir.graph import Fused, Linear, Windowed
from tvm_schedules.ir.layout import ALIGN, Halo, Window
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.epilogue import Epilogue, PlanesCall
from tvm_schedules.lowering.layouts import in_planes, input_key, window_of
from tvm_schedules.packing.tap_lists import signs_apart, split_levels, taps_limit

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "lower", "pixel_block", "row_chunks", "row_splits"]

NAME = "sparse"
"""What artifacts and tuning databases call this kernel."""

L1 = 28_000
"""Bytes of the first-level cache that a pixel block of all input channels may take; 32 KiB is what all targets have."""

MOST_FLOATS = 20
"""Vectors of floats a pixel block at most, where there are 32 registers of 64 bytes."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8 or float32.
        rows: Output channels.
        taps: Offsets in all.
        segments: Segments in all; 0 if every row is one segment and needs nothing but the epilogue's scale.
        two_levels: Whether every row has two segments: what it adds up, and what it takes away times another level.
        vector: Bytes a vector register.
        widen: Whether the CPU adds bytes to 16-bit lanes in one instruction (Arm's UADDW).
        block: Vectors a pixel block.
        chunks: Blocks of output channels, for threads.
        index: Type of the offsets.
        unroll: Taps in the body of a loop: where vectors are short, counting and addresses take their share of time.
        parallel: Whether threads share the jobs.
        epilogue: What follows the accumulation: scale, bias, residual, clip, rounding.
    """

    x: Halo
    rows: int
    taps: int
    segments: int
    two_levels: bool
    vector: int
    widen: bool
    block: int
    chunks: int
    index: str
    unroll: int
    parallel: bool
    epilogue: Epilogue

    @property
    def lanes(self) -> int:
        """Pixels a vector."""
        return self.vector // self.x.itemsize

    @property
    def widths(self) -> tuple[int, list[int]]:
        """How many whole pixel blocks there are, and the vectors of the rest, the last one as narrow as will do."""
        run = self.x.run(self.epilogue.size)
        full, rest = divmod(run, self.block * self.lanes)
        tail = [self.lanes] * (rest // self.lanes)
        left = rest % self.lanes
        halves = {64: [self.lanes // 4, self.lanes // 2], 32: [self.lanes // 2]}
        narrow = halves.get(self.vector, [8] if self.widen and self.lanes == 16 else [])
        return full, [*tail, next((n for n in narrow if n >= left), self.lanes)] if left else tail

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane."""
        full, tail = self.widths
        return full * self.block * self.lanes + sum(tail)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes ternary convolutions, and ternary linear layers of many rows as convolutions of one pixel."""
    weight = node.weight if isinstance(node, Windowed | Linear) else None
    if not isinstance(weight, TernaryTensor) or not in_planes(ctx.graph, node):
        return False
    rows = isinstance(node, Linear)
    if rows:
        codes = weight.codes.reshape(*weight.codes.shape, 1, 1, 1)
        weight = TernaryTensor(codes, weight.positive, weight.negative, 0)
    key, window = input_key(ctx.graph, node), window_of(node)
    source, x, quant = ctx.packed(key), ctx.layouts[key], ctx.input_quant(node)
    codes, levels = split_levels(weight)
    single = len(codes) == 1
    level = levels[0].astype(np.float64) if single else np.ones(weight.channels)
    sums = (codes.reshape(*codes.shape[:2], -1).sum(2) * levels).sum(0)
    unit = quant.scale * node.scale
    numbers = ctx.numbers(node, level * unit, node.bias - quant.zero_point * unit * sums)
    arrays = weight.stored
    # Lists are read once a block of pixels: half the bytes are half the way from memory.
    index = "uint16" if x.channels * x.phases * x.plane <= 1 << 16 else "int32"
    params = {"shape": list(weight.codes.shape), "window": asdict(window), "x": asdict(x), "limit": taps_limit(x)}
    end = ctx.destination(node, rows, x, ctx.sum_unit(x))
    ep = end.epilogue
    vector = ctx.target.vector_bytes
    lanes = vector // x.itemsize
    vectors = -(-x.run(ep.size) // lanes)
    many = vector == 64 and x.dtype == "float32"
    usual = _usual(vectors, vector, ctx.target.arm64, many)
    block = pixel_block(vectors, vector, usual, x, window)
    sizes = (4, 6, 8, 11, 14, 17, MOST_FLOATS) if many else range(2, 11 if vector == 16 else 8)
    block = ctx.configs.knob(node.name, "block", block, [n for n in sizes if n <= vectors] or [vectors])
    # Long blocks gain more by the order of the lists of all output channels than by many jobs.
    chunks = row_chunks(weight.channels, -(-vectors // block), 4 if many else 16)
    chunks = ctx.configs.knob(node.name, "chunks", chunks, row_splits(weight.channels))
    params |= {"index": index, "share": -(-weight.channels // chunks)}
    made = ctx.constants.add(node.name, "taps", arrays, params)
    pieces, taps = made["level"].nbytes // 4, made["offsets"].nbytes // np.dtype(index).itemsize - 1
    several = 0 if single and pieces == weight.channels else pieces
    unroll = ctx.configs.knob(node.name, "unroll", 2 if ctx.target.arm64 else 1, (1, 2, 4))
    parallel = taps * vectors * lanes > ctx.serial * 16
    two = signs_apart(codes) and pieces == 2 * weight.channels
    wide = ctx.target.arm64
    spec = Spec(x, weight.channels, taps, several, two, vector, wide, block, chunks, index, unroll, parallel, ep)
    inputs = [source, *(made[name] for name in ("offsets", "bounds", "row", "level", "order"))]
    pixels = x.batch * prod(ep.size)
    reason = f"{weight.sparsity():.1%} zeros: adds and subtracts {taps} of {prod(weight.shape)} taps"
    info = {"macs": prod(weight.shape) * pixels, "nonzero_macs": taps * pixels, "bytes_weights": weight.nbytes()}
    ctx.report(node, weight, NAME, reason)
    call = PlanesCall(NAME, spec, inputs, numbers, end, {**info, "reason": reason})
    ctx.add_planes(node, call)
    return True


def _usual(vectors: int, vector: int, widen: bool, many: bool) -> tuple[int, int]:
    """Vectors a pixel block, and the most for an image of one block: their accumulators stay in the registers.

    One for a vector where there may be ``many`` (AVX-512's floats), else two.
    """
    if many:
        # The longer, the fewer lists to read. As many blocks for one thread as for another.
        blocks = -(-vectors // MOST_FLOATS)
        return -(-vectors // (blocks + blocks % 2)), MOST_FLOATS
    usual, most = {64: (6, 6), 32: (5, 6)}.get(vector, (8, 10))
    # All blocks alike.
    return (-(-vectors // -(-vectors // most)) if widen else usual), most


def pixel_block(vectors: int, vector: int, usual: tuple[int, int], x: Halo, window: Window) -> int:
    """Vectors a pixel block.

    What a block reads of all channels should stay in the cache from one output channel to the next. A small image is
    one block.

    Args:
        vectors: Vectors of the image.
        vector: Bytes of one.
        usual: Vectors a block, and the most for an image of one block, that the registers have room for.
        x: Layout of the input.
        window: Geometry.
    """
    size, most = usual
    if vectors <= most:
        return vectors
    shifts = [x.offset(0, (0, 0, 0), shift) for _, shift in window.taps()]
    reach = (max(shifts) - min(shifts)) * x.itemsize

    def lines(block: int) -> int:
        return -(-(block * vector + reach) // ALIGN) + 1

    channels = x.channels // window.groups * x.phases
    least = 4 if size > 10 else size // 2
    return next((b for b in range(size, least, -1) if channels * lines(b) * ALIGN <= L1), max(2, least))


def row_splits(rows: int) -> list[int]:
    """Numbers of blocks of output channels that are worth measuring: equal ones."""
    return [c for c in (1, 2, 4, 8, 16) if rows % c == 0]


def row_chunks(rows: int, blocks: int, jobs: int = 16) -> int:
    """Blocks of output channels, so that there are at least so many jobs for the threads."""
    wanted = max(1, min(rows, -(-jobs // blocks)))
    return next(c for c in range(wanted, rows + 1) if rows % c == 0 or c >= 2 * wanted or c == rows)
