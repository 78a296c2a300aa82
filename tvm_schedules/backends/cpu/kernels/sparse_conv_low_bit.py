"""Offset-sparse ternary convolution of activations of few bits: most additions are of bytes.

As :mod:`.sparse_conv`, but of pixels up to ``top`` a byte holds the sum of ``255 // top`` taps: one addition a tap for
as many pixels as a vector has bytes, and one widening for many taps.

Bound by loads, as there: an addition costs as much as its load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.kernels.common.pixel_rows import ByteAccumulators, Parts, PixelRows, emit_rows
from tvm_schedules.backends.cpu.kernels.common.ternary_rows import TernaryRows
from tvm_schedules.compat import Emitter
from tvm_schedules.ir.graph import Fused
from tvm_schedules.packing.tap_lists import taps_limit

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "narrow"
"""What artifacts and tuning databases call this kernel."""


@dataclass(frozen=True)
class Spec(PixelRows):
    """All that the code depends on.

    Args:
        taps: Offsets in all.
        once: Taps that a byte holds the sum of.
        short: Whether no segment has more taps of one sign than that.
    """

    taps: int
    once: int
    short: bool


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, offsets, bounds, row, level, <epilogue>``."""

    def segment(e: Emitter, x: Any, own: list[Any], acc: ByteAccumulators, s: Any, base: Any, parts: Parts) -> None:
        offsets, bounds = own

        def taps(first: Any, count: Any, sign: int) -> None:
            acc.zero_bytes(parts)
            with e.loop(count) as j:
                where = e.load(offsets, first + j) + base
                for at, width in parts:
                    acc.add(at, width, e.load(x, where + at, width))
            acc.fold(parts, sign)

        for sign, index in ((+1, 0), (-1, 1)):
            first, last = (e.load(bounds, s * 2 + index + i) for i in range(2))
            if spec.short:
                taps(first, last - first, sign)
                continue
            with e.loop((last - first) // spec.once) as i:
                taps(first + i * spec.once, spec.once, sign)
            done = (last - first) // spec.once * spec.once
            with e.when(last - first > done):
                taps(first + done, last - first - done, sign)

    count = max(spec.segments, spec.rows)
    return emit_rows(spec, [("offsets", "int32", spec.taps + 1), ("bounds", "int32", 2 * count + 1)], True, segment)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes ternary convolutions and linear layers of many rows whose pixels have at most four bits."""
    layer = TernaryRows.take(ctx, node)
    if layer is None or not ctx.configs.selects(node.name, NAME, True):
        return False
    source, top = ctx.packed(layer.key), layer.quant.top
    made = layer.constants("taps", layer.x, limit=taps_limit(layer.x, top), index="int32", share=1)
    pieces, taps = made["level"].nbytes // 4, made["offsets"].nbytes // 4 - 1
    usual = {64: (5, 6), 32: (5, 6)}.get(ctx.target.vector_bytes, (8, 10))
    rows, end = layer.geometry(layer.x, pieces, usual)
    once = 255 // top
    spec = Spec(**vars(rows), taps=taps, once=once, short=layer.longest <= once)
    own = [source, *(made[name] for name in ("offsets", "bounds", "row", "level"))]
    reason = (
        f"{layer.weight.sparsity():.1%} zeros: adds and subtracts {taps} of {layer.dense} taps, "
        f"up to {once} at a time in bytes (inputs up to {top})"
    )
    layer.finish(NAME, spec, own, layer.numbers(), end, reason)
    return True
