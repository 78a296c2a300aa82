"""Maximum and average pooling in halo layout; with a window of one pixel, addition, clipping and requantizing.

A window is a list of offsets, as in the convolutions, but each channel reads only its own plane. The average of a
window that reaches over the border divides by its number of real pixels, or of all of them, as ONNX's
``count_include_pad`` says: the divisor comes from an array over the pixels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tvm_schedules.backends.cpu.kernels.epilogue import Epilogue, fill_borders, store_bytes, store_pixels
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused, Pool
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.lowering.layouts import input_key

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["Spec", "emit", "lower"]

NAME = "pool"
"""What artifacts and tuning databases call this kernel."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        kind: ``"max"`` or ``"average"``.
        x: Layout of the input, uint8 or float32.
        window: Geometry.
        zero: The input's zero point, which the halo holds too; an average takes it out.
        vector: Bytes a vector register.
        parallel: Whether threads share the jobs.
        epilogue: What follows.
        plain: Whether the largest bytes are the result as they are, by scales and bounds that change nothing.
    """

    kind: Literal["max", "average"]
    x: Halo
    window: Window
    zero: int
    vector: int
    parallel: bool
    epilogue: Epilogue
    plain: bool = False

    @property
    def lanes(self) -> int:
        """Pixels a vector."""
        return self.vector if self.plain else self.vector // 4

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane: whole vectors."""
        return -(-self.x.run(self.epilogue.size) // self.lanes) * self.lanes


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, divisor, <epilogue>``."""
    ep, x, window = spec.epilogue, spec.x, spec.window
    lanes = spec.lanes
    f32 = f"float32x{lanes}"
    offsets = [x.offset(0, phase, shift) for phase, shift in window.taps()]
    zeros = float(spec.zero * len(offsets))

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], x.elements + spec.pixels, x.dtype)
        divisor = e.view(pointers[1], spec.pixels, "float32")
        views = ep.views(e, list(pointers[2:]), x.channels, spec.pixels)
        with e.jobs(x.batch * x.channels, spec.parallel) as plane:
            n, c = plane // x.channels, plane % x.channels
            with e.loop(spec.pixels // lanes) as i:
                base = plane * (x.phases * x.plane) + i * lanes
                values = [e.load(bx, base + offset, lanes) for offset in offsets]
                if spec.kind == "max":
                    acc = values[0]
                    for value in values[1:]:
                        acc = e.max(acc, value)
                    acc = e.cast(acc, f32) if x.dtype == "uint8" and not spec.plain else acc
                else:
                    values = [e.cast(value, f32) if x.dtype == "uint8" else value for value in values]
                    acc = values[0]
                    for value in values[1:]:
                        acc = acc + value
                    acc = (acc - e.const(zeros, f32)) * e.load(divisor, i * lanes, lanes)
                store = store_bytes if spec.plain else store_pixels
                store(e, ep, views, acc, n, c, i * lanes, lanes)
            fill_borders(e, ep.out, views["out"], n, c, spec.pixels)

    return kernel_function([("x", x.dtype), ("divisor", "float32"), *ep.arguments], body)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes pooling, and elementwise nodes in planes."""
    if not isinstance(node, Pool) or ctx.layouts.reads_rows(node):
        return False
    key = input_key(ctx.graph, node)
    source, x, quant = ctx.packed(key), ctx.layouts[key], ctx.input_quant(node)
    scale, bias = (np.broadcast_to(a, (x.channels,)).astype(np.float64) for a in (node.scale, node.bias))
    factor = quant.scale * scale
    zero = quant.zero_point if node.kind == "max" else 0
    numbers = ctx.numbers(node, factor, bias - zero * factor)
    ep, beside, out = ctx.epilogue(node, False, x)
    work = x.batch * x.channels * prod(ep.size) * prod(node.window.kernel)
    changes = (
        not np.all(numbers["scale"] == 1) or np.any(numbers["bias"]) or tuple(numbers["params"][:3]) != (0, 0, 255)
    )
    plain = node.kind == "max" and x.dtype == ep.out.dtype == "uint8" and not changes
    vector = ctx.target.vector_bytes
    spec = Spec(node.kind, x, node.window, quant.zero_point, vector, work > ctx.serial * 8, ep, plain)
    params = {"x": asdict(x), "window": asdict(node.window), "size": list(ep.size), "length": spec.pixels}
    made = ctx.constants.add(node.name, "divisor", {}, {**params, "include_pad": node.include_pad})
    window = "x".join(str(k) for k in node.window.kernel if k > 1)
    reason = f"{node.kind} over {window}" if window else "elementwise"
    ctx.add_planes(node, NAME, spec, [source, made["divisor"]], numbers, beside, out, {"reason": reason})
    return True
