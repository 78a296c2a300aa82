"""Depthwise convolution of 8-bit activations on Arm's cores without dot products: products added up in 16 bits.

Pixels are the lanes, 16 at a time, and enter minus 128, for which the bias makes up. 16 bits hold the sum of two
products, which one instruction multiplies and adds; then these sums are added up in 32 bits.

Bound by products, by widening and by the epilogue: there are few products a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.cpu.kernels.common.dot_product import available
from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, store_pixels, views_of
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import DenseWeight, Fused, Windowed
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.lowering.epilogue import Epilogue, PlanesCall
from tvm_schedules.lowering.layouts import input_key

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "depthwise_widened"
"""What artifacts and tuning databases call this kernel."""

LANES = 16
"""Pixels at a time."""
MOST_TAPS = 32
"""Taps at most: the code has all of them one after the other."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8.
        window: Geometry, one input channel a group.
        rows: Output channels.
        parallel: Whether threads share the jobs.
        epilogue: What follows the accumulation: scale, bias, residual, clip, rounding.
    """

    x: Halo
    window: Window
    rows: int
    parallel: bool
    epilogue: Epilogue

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane: whole vectors."""
        return -(-self.x.run(self.epilogue.size) // LANES) * LANES


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, values, <epilogue>``."""
    ep, x = spec.epilogue, spec.x
    offsets = [x.offset(0, phase, shift) for phase, shift in spec.window.taps()]
    each, taps = spec.rows // x.channels, len(offsets)

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], x.elements + spec.pixels, "uint8")
        values = e.view(pointers[1], spec.rows * taps, "int8")
        views = views_of(e, ep, list(pointers[2:]), spec.rows, spec.pixels)

        def half(vector: Any, h: int) -> Any:
            return e.shuffle([vector], list(range(8 * h, 8 * h + 8)))

        with e.jobs(x.batch * spec.rows, spec.parallel) as job:
            n, o = job // spec.rows, job % spec.rows
            base = (n * x.channels + o // each) * (x.phases * x.plane)
            weights = [e.bind(e.splat(e.load(values, o * taps + t), LANES)) for t in range(taps)]

            def pairs(start: Any) -> list[tuple[Any, Any]]:
                """The sums of two taps each, int16: of the first eight pixels and of the others."""
                found: list[tuple[Any, Any]] = []
                for t, offset in enumerate(offsets):
                    read = e.load(bx, base + offset + start, LANES) ^ e.const(128, f"uint8x{LANES}")
                    pixels = e.bind(e.bits(read, f"int8x{LANES}"))
                    name = "llvm.aarch64.neon.smull.v8i16"
                    made = [e.intrinsic("int16x8", name, half(pixels, h), half(weights[t], h)) for h in (0, 1)]
                    if t % 2:
                        made = [one + other for one, other in zip(found.pop(), made, strict=True)]
                    found.append((e.bind(made[0]), e.bind(made[1])))
                return found

            with e.loop(spec.pixels // LANES) as i:
                sums = pairs(i * LANES)
                wide = []
                for quarter in range(4):
                    order = list(range(quarter % 2 * 4, quarter % 2 * 4 + 4))
                    parts = [e.cast(e.shuffle([pair[quarter // 2]], order), "int32x4") for pair in sums]
                    wide.append(e.cast(sum(parts[1:], parts[0]), "float32x4"))
                store_pixels(e, ep, views, e.shuffle(wide, list(range(LANES))), n, o, i * LANES, LANES)
            fill_borders(e, ep.out, views["out"], n, o, spec.pixels)

    return kernel_function([("x", "uint8"), ("values", "int8"), *ep.arguments], body)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes depthwise convolutions of bytes with 8-bit weights, but -128, on Arm where there are no dot products."""
    if not ctx.target.arm64 or available(ctx.target) is not None or not isinstance(node, Windowed):
        return False
    weight, window = node.weight, node.window
    if not isinstance(weight, DenseWeight) or ctx.graph.values[node.inputs[0]].dtype != "uint8":
        return False
    values, key = weight.values, input_key(ctx.graph, node)
    x, rows, taps = ctx.layouts[key], len(values), prod(window.kernel)
    if values.dtype != np.int8 or values.shape[1] != 1 or window.groups != x.channels or taps > MOST_TAPS:
        return False
    if values.min(initial=0) == -128:  # 16 bits do not hold two products of it
        return False
    source, quant = ctx.packed(key), ctx.input_quant(node)
    factor = weight.scale.astype(np.float64) * quant.scale * node.scale
    sums = values.reshape(rows, -1).astype(np.float64).sum(1)
    numbers = ctx.numbers(node, factor, node.bias - (quant.zero_point - 128) * factor * sums)
    made = ctx.constants.add(node.name, "raw", {"values": values})
    end = ctx.destination(node, False, x)
    macs = values.size * x.batch * prod(end.epilogue.size)
    spec = Spec(x, window, rows, macs > ctx.serial * 8, end.epilogue)
    reason = "depthwise int8 weight, sums of two products in 16 bits"
    info = {"macs": macs, "nonzero_macs": macs, "bytes_weights": values.nbytes, "reason": reason}
    ctx.report(node, weight, NAME, reason)
    ctx.add_planes(node, PlanesCall(NAME, spec, [source, made["values"]], numbers, end, info))
    return True
