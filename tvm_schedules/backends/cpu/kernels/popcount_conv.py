"""Ternary convolution of activations of few bits: eight weights at once, by counting bits.

Bit planes are those of :mod:`.repack_bit_planes`. With a word's masks ``plus`` and ``minus`` and the bits x of a
plane, ``|x & plus| - |x & minus| = |(x & plus) | (~x & minus)| - |minus|``, where |.| counts bits: one selection, one
count and one addition for eight weights of both signs. The last term is the same for all pixels and goes into the
bias. Plane b counts ``2**b`` times.

Applies where activations have at most four bits and counting is estimated to be faster than adding up. Bound by the
three operations a word, plane and vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.cpu.kernels import repack_bit_planes
from tvm_schedules.backends.cpu.kernels.common.dot_product import available, tap_cost
from tvm_schedules.backends.cpu.kernels.common.pixel_rows import ByteAccumulators, Parts, PixelRows, emit_rows
from tvm_schedules.backends.cpu.kernels.common.ternary_rows import TernaryRows
from tvm_schedules.compat import Emitter
from tvm_schedules.ir.graph import Fused
from tvm_schedules.ir.layout import Halo
from tvm_schedules.lowering.steps import Buffer
from tvm_schedules.packing.bitplanes import WORD, masks_of, planes_of
from tvm_schedules.targets.registry import TargetSpec

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "ONCE", "Spec", "emit", "lower", "words_limit"]

NAME = "popcount"
"""What artifacts and tuning databases call this kernel."""

ONCE = 255 // WORD
"""Words that a byte holds the counts of."""


@dataclass(frozen=True)
class Spec(PixelRows):
    """All that the code depends on. ``x`` is the layout of the bit planes.

    Args:
        words: Words in all.
        planes: Bit planes.
    """

    words: int
    planes: int


def words_limit(planes: int) -> int:
    """Words in a segment at most: what 16-bit sums hold."""
    return 65535 // (WORD * (2**planes - 1))


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, offsets, masks, bounds, row, level, <epilogue>``."""
    distance = spec.x.phases * spec.x.plane

    def segment(e: Emitter, x: Any, own: list[Any], acc: ByteAccumulators, s: Any, base: Any, parts: Parts) -> None:
        offsets, masks, bounds = own

        def count(first: Any, length: Any, plane: int) -> None:
            acc.zero_bytes(parts)
            with e.loop(length) as j:
                where = e.load(offsets, first + j) + base + plane * distance
                scalars = [e.load(masks, (first + j) * 2 + i) for i in range(2)]
                for at, width in parts:
                    plus, minus = (e.bits(e.splat(mask, width // 4), f"uint8x{width}") for mask in scalars)
                    pixels = e.load(x, where + at, width)
                    chosen = (pixels & plus) | (~pixels & minus)
                    acc.add(at, width, e.intrinsic(f"uint8x{width}", "llvm.ctpop", chosen))
            acc.fold(parts, +1)

        first, last = e.load(bounds, s), e.load(bounds, s + 1)
        for plane in reversed(range(spec.planes)):
            whole = (last - first) // ONCE
            with e.loop(whole) as i:
                count(first + i * ONCE, ONCE, plane)
            with e.when(last - first > whole * ONCE):
                count(first + whole * ONCE, last - first - whole * ONCE, plane)
            if plane:
                acc.double(parts)

    segments = max(spec.segments, spec.rows)
    words = ("offsets", "int32", spec.words + 1), ("masks", "uint32", 2 * spec.words + 2)
    return emit_rows(spec, [*words, ("bounds", "int32", segments + 1)], False, segment)


def counts_bytes(target: TargetSpec) -> bool:
    """Whether a target counts the bits of every byte of a vector in one instruction: VPOPCNTB, CNT."""
    return target.arm64 or ("avx512bitalg" in target.features and target.vector_bytes == 64)


WORD_COST = {64: 1.15, 16: 2.1}
"""Time of a word and plane in times of adding one tap in bytes, by bytes of a vector."""


def _costs(ctx: Lowering, layer: TernaryRows, count: int) -> tuple[float, float]:
    """Times of this kernel, and of the best of adding up taps and dot products, in additions of a tap in bytes."""
    planes = layer.quant.top.bit_length()
    packing = -(-layer.codes.shape[2] // WORD) * layer.window.groups * (8 + 12 * planes)
    own = WORD_COST[ctx.target.vector_bytes] * count * planes + packing
    dot = available(ctx.target)
    if dot is None or not layer.single:
        return own, layer.taps
    return own, min(layer.taps, layer.dense / dot.advantage / tap_cost(ctx.target, layer.quant.top))


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes ternary layers whose pixels have few bits, where counting is faster than adding and than dot products."""
    layer = TernaryRows.take(ctx, node) if counts_bytes(ctx.target) else None
    if layer is None:
        return False
    plus, minus = masks_of(layer.codes)
    count, planes = int(np.count_nonzero(plus | minus)), layer.quant.top.bit_length()
    own, other = _costs(ctx, layer, count)
    if not ctx.configs.selects(node.name, NAME, own < other):
        return False
    reason = (
        f"{count} of {plus.size} words of {WORD} weights have some: counts bits, inputs of {planes} "
        f"bit{'s' * (planes > 1)}; estimated {own:.0f} against {other:.0f} additions of a tap"
    )
    source, packed = _bits(ctx, layer)
    made = layer.constants("words", packed, planes=planes, limit=words_limit(planes))
    pieces, words = made["level"].nbytes // 4, made["offsets"].nbytes // 4 - 1
    rows, end = layer.geometry(packed, pieces, (8, 10))
    spec = Spec(**vars(rows), words=words, planes=planes)
    arguments = [source, *(made[name] for name in ("offsets", "masks", "bounds", "row", "level"))]
    layer.finish(NAME, spec, arguments, layer.numbers(2**planes - 1), end, reason)
    return True


def _bits(ctx: Lowering, layer: TernaryRows) -> tuple[Buffer, Halo]:
    """The bit planes of a layer's input; packed here unless another layer did."""
    groups = layer.window.groups
    packed = planes_of(layer.x, groups, layer.quant.top)
    key = ("bits", layer.key, groups)
    if key not in ctx.derived:
        source = ctx.packed(layer.key)
        ctx.derived[key] = Buffer(f"{layer.key.value}:bits", packed.nbytes)
        parallel = prod(layer.x.dims) * layer.x.channels > ctx.serial * 16
        spec = repack_bit_planes.Spec(layer.x, packed, groups, ctx.target.vector_bytes, parallel)
        info = {"op": "Pack", "reason": f"{layer.key.value}: bit planes for counting"}
        args = [source, ctx.derived[key]]
        ctx.add_copy(f"{layer.key.value}/bits", repack_bit_planes.NAME, spec, args, info)
    return ctx.derived[key], packed
