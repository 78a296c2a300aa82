"""Maximum and average pooling in halo planes, one thread a pixel; elementwise nodes are windows of one pixel.

Bound by loads.
"""

from __future__ import annotations

from typing import Any

from tvm_schedules.backends.gpu.kernels.common.epilogue import arguments, covered, finish, is_pixel
from tvm_schedules.compat.gpu import Argument, GpuEmitter, Kernel
from tvm_schedules.lowering.rules.pool import NAME, Spec, lower

__all__ = ["NAME", "Spec", "emit", "lower"]

THREADS = 64


def emit(spec: Spec) -> Kernel:
    """Makes the kernel: ``x, divisor, <epilogue>``."""
    ep, x = spec.epilogue, spec.x
    taps = [x.offset(0, phase, shift) for phase, shift in spec.window.taps()]
    own = [Argument("x", x.dtype, x.elements), Argument("divisor", "float32", spec.pixels)]

    def body(e: GpuEmitter, group: Any, t: Any, *views: Any) -> None:
        bx, divisor = views[:2]
        c, n = group[1], group[2]
        p = e.keep(group[0] * THREADS + t - ep.out.front, "int32")
        pixel = is_pixel(e, ep.out, ep.size, p)
        start = e.keep((n * x.channels + c) * (x.phases * x.plane) + e.either(p, 0, pixel), "int32")
        acc = e.local(1, "float32")
        for i, tap in enumerate(taps):
            value = e.cast(e.load(bx, start + tap), "float32")
            if i:
                value = e.max(e.load(acc, 0), value) if spec.kind == "max" else e.load(acc, 0) + value
            e.store(acc, 0, value)
        if spec.kind == "average":
            real = e.load(acc, 0) - e.const(float(spec.zero * len(taps)), "float32")
            e.store(acc, 0, real * e.load(divisor, e.either(p, 0, pixel)))
        finish(e, ep, views[2:], e.load(acc, 0), n, c, p, pixel)

    grid = (-(-covered(ep) // THREADS), x.channels, x.batch)
    return Kernel([*own, *arguments(ep, x.channels, spec.pixels)], grid, THREADS, body)
