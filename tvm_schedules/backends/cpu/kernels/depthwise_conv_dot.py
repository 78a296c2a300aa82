"""Depthwise 8-bit convolution with dot products: taps that lie side by side share one load.

A vector of bytes is loaded once for up to four neighboring taps and spread so that each lane holds the four bytes
that its pixel reads; one dot product then does the work of four multiplications.

Bound by the shuffles that spread the bytes and by the epilogue: there are few products a pixel.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.cpu.kernels.common.dot_product import Dot, available
from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, store_four, store_pixels, views_of
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import DenseWeight, Fused, Windowed
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.lowering.epilogue import Epilogue, PlanesCall
from tvm_schedules.lowering.layouts import input_key
from tvm_schedules.packing.depthwise_conv_dot import tap_runs

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "depthwise_dot"
"""What artifacts and tuning databases call this kernel."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8.
        window: Geometry, one input channel a group.
        rows: Output channels.
        dot: The dot product.
        parallel: Whether threads share the jobs.
        epilogue: What follows the accumulation: scale, bias, residual, clip, rounding.
    """

    x: Halo
    window: Window
    rows: int
    dot: Dot
    parallel: bool
    epilogue: Epilogue

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane: whole vectors."""
        return -(-self.x.run(self.epilogue.size) // self.dot.lanes) * self.dot.lanes


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, values, <epilogue>``."""
    ep, x, lanes = spec.epilogue, spec.x, spec.dot.lanes
    found = tap_runs(spec.window, x)
    each = spec.rows // x.channels
    spread = [lane + tap for lane in range(lanes) for tap in range(4)]

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], x.elements + spec.pixels + 64, "uint8")
        values = e.view(pointers[1], spec.rows * len(found), "int32")
        views = views_of(e, ep, list(pointers[2:]), spec.rows, spec.pixels)
        with e.jobs(x.batch * spec.rows, spec.parallel) as job:
            n, o = job // spec.rows, job % spec.rows
            base = (n * x.channels + o // each) * (x.phases * x.plane)
            factors = e.local(len(found), "int32")
            for r in range(len(found)):
                e.store(factors, r, e.load(values, o * len(found) + r))

            def sums(start: Any, vectors: int) -> list[Any]:
                accs = [e.const(0, f"int32x{lanes}") for _ in range(vectors)]
                for r, (offset, _) in enumerate(found):
                    weight = e.bits(e.splat(e.load(factors, r), lanes), f"int8x{4 * lanes}")
                    for v in range(vectors):
                        # One load has what the dot products of three vectors read.
                        read = spec.dot.pixels(e, e.load(bx, base + offset + start + v // 3 * 3 * lanes, 4 * lanes))
                        accs[v] = spec.dot(e, accs[v], e.shuffle([read], [v % 3 * lanes + at for at in spread]), weight)
                return [e.cast(acc, f"float32x{lanes}") for acc in accs]

            blocks, size = spec.pixels // (4 * lanes), 4 * lanes
            if blocks:
                with e.loop(blocks) as i:
                    store_four(e, ep, views, sums(i * size, 4), n, o, i * size, range(size))
            with e.loop(spec.pixels // lanes - 4 * blocks) as i:
                start = (i + 4 * blocks) * lanes
                store_pixels(e, ep, views, sums(start, 1)[0], n, o, start, lanes)
            fill_borders(e, ep.out, views["out"], n, o, spec.pixels)

    return kernel_function([("x", "uint8"), ("values", "int32"), *ep.arguments], body)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes depthwise 8-bit convolutions with 8-bit weights where the target has dot products."""
    dot = available(ctx.target)
    if dot is None or not isinstance(node, Windowed) or not isinstance(node.weight, DenseWeight):
        return False
    weight, window = node.weight, node.window
    if (
        weight.values.dtype != np.int8
        or weight.values.shape[1] != 1
        or ctx.graph.values[node.inputs[0]].dtype != "uint8"
    ):
        return False
    key = input_key(ctx.graph, node)
    x = ctx.layouts[key]
    if window.groups != x.channels or len(tap_runs(window, x)) > 32:
        return False
    source, quant, rows = ctx.packed(key), ctx.input_quant(node), len(weight.values)
    factor = weight.scale.astype(np.float64) * quant.scale * node.scale
    sums = weight.values.reshape(rows, -1).astype(np.float64).sum(1)
    numbers = ctx.numbers(node, factor, node.bias - (quant.zero_point - dot.offset) * factor * sums)
    params = {"window": asdict(window), "x": asdict(x)}
    made = ctx.constants.add(node.name, "depthwise_dot", {"values": weight.values}, params)
    end = ctx.destination(node, False, x)
    macs = weight.values.size * x.batch * prod(end.epilogue.size)
    parallel = macs > ctx.serial * 8
    spec = Spec(x, window, rows, dot, parallel, end.epilogue)
    reason = "depthwise int8 weight, dot products of neighboring taps"
    info = {"macs": macs, "nonzero_macs": macs, "bytes_weights": weight.values.nbytes, "reason": reason}
    ctx.report(node, weight, NAME, reason)
    ctx.add_planes(node, PlanesCall(NAME, spec, [source, made["values"]], numbers, end, info))
    return True
