"""Maximum and average pooling in halo layout; with a window of one pixel, addition, clipping and requantizing.

A window is a list of offsets, as in the convolutions, but each channel reads only its own plane. The average of a
window that reaches over the border divides by its number of real pixels, or of all of them, as ONNX's
``count_include_pad`` says: the divisor comes from an array over the pixels.

Bound by loads and, for one pixel, by reading and writing memory.
"""

from __future__ import annotations

from typing import Any

from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, store_bytes, store_pixels, views_of
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.lowering.rules.pool import NAME, Spec, lower

__all__ = ["NAME", "Spec", "emit", "lower"]


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, divisor, [gate,] <epilogue>``."""
    ep, x, window = spec.epilogue, spec.x, spec.window
    lanes = spec.lanes
    f32 = f"float32x{lanes}"
    offsets = [x.offset(0, phase, shift) for phase, shift in window.taps()]
    zeros = float(spec.zero * len(offsets))

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], x.elements + spec.pixels, x.dtype)
        divisor = e.view(pointers[1], spec.pixels, "float32")
        gate = e.view(pointers[2], x.batch * x.channels, "float32") if spec.gated else None
        views = views_of(e, ep, list(pointers[3 if spec.gated else 2 :]), x.channels, spec.pixels)
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
                if gate is not None:
                    acc = acc * e.splat(e.load(gate, plane), lanes)
                store = store_bytes if spec.plain else store_pixels
                store(e, ep, views, acc, n, c, i * lanes, lanes)
            fill_borders(e, ep.out, views["out"], n, c, spec.pixels)

    gates = [("gate", "float32")] if spec.gated else []
    return kernel_function([("x", x.dtype), ("divisor", "float32"), *gates, *ep.arguments], body)
