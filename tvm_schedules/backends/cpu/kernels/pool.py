"""Maximum and average pooling in halo layout; with a window of one pixel, addition, clipping and requantizing.

A window is a list of offsets, as in the convolutions, but each channel reads only its own plane. The average of a
window that reaches over the border divides by its number of real pixels, or of all of them, as ONNX's
``count_include_pad`` says: the divisor comes from an array over the pixels.

Bound by loads and, for one pixel, by reading and writing memory.
"""

from __future__ import annotations

from typing import Any

from tvm_schedules.backends.cpu.kernels.common.epilogue import (
    every_fourth,
    fill_borders,
    packs_bytes,
    store_bytes,
    store_four,
    store_pixels,
    views_of,
)
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
            factor = None if gate is None else e.load(gate, plane)

            def gated(acc: Any) -> Any:
                if factor is None:
                    return acc
                return (acc - e.const(float(spec.zero), f32) if spec.zero else acc) * e.splat(factor, lanes)

            def block(at: Any) -> None:
                base = plane * (x.phases * x.plane) + at
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
                    acc = (acc - e.const(zeros, f32)) * e.load(divisor, at, lanes)
                store = store_bytes if spec.plain else store_pixels
                store(e, ep, views, gated(acc), n, c, at, lanes)

            def four(at: Any) -> None:
                word, count = f"uint32x{lanes}", 4 * lanes
                near = e.bits(e.load(bx, plane * (x.phases * x.plane) + offsets[0] + at, count), word)
                parts = [(near >> e.const(8 * k, word)) & e.const(255, word) for k in range(4)]
                accs = [gated(e.cast(e.bits(part, word.replace("u", "")), f32)) for part in parts]
                store_four(e, ep, views, accs, n, c, at, every_fourth(lanes))

            done = spec.pixels // (4 * lanes) * (4 * lanes) if _four(spec) else 0
            if done:
                with e.loop(done // (4 * lanes)) as i:
                    four(i * (4 * lanes))
            with e.loop((spec.pixels - done) // lanes) as i:
                block(done + i * lanes)
            fill_borders(e, ep.out, views["out"], n, c, spec.pixels)

    gates = [("gate", "float32")] if spec.gated else []
    return kernel_function([("x", x.dtype), ("divisor", "float32"), *gates, *ep.arguments], body)


def _four(spec: Spec) -> bool:
    """Whether four vectors of one pixel's window are computed together, since they are packed together."""
    alone = spec.kind == "max" and not spec.plain and len(spec.window.taps()) == 1
    return alone and spec.x.dtype == "uint8" and packs_bytes(spec.epilogue, spec.lanes)
