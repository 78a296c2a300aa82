"""Offset-sparse ternary convolution: each thread adds and subtracts the pixels that a row's lists name.

All threads of a group read the same offset and neighboring pixels. Sums are 32-bit integers, or float32 for float
activations; rows of several segments (terms, unequal levels) are added up in float32, as in the CPU's kernel, whose
lists and description this one shares.

Bound by loads: each addition loads a pixel, most of them from a cache.
"""

from __future__ import annotations

from typing import Any

from tvm_schedules.backends.gpu.kernels.common.epilogue import arguments, covered, finish, is_pixel
from tvm_schedules.compat.gpu import Argument, GpuEmitter, Kernel
from tvm_schedules.lowering.rules.sparse_conv import NAME, Spec, lower

__all__ = ["NAME", "THREADS", "Spec", "emit", "lower", "pixels_a_thread"]

THREADS = 64


def pixels_a_thread(total: int) -> int:
    """Pixels a thread, of so many elements of a plane."""
    return next((v for v in (4, 2) if total >= 4 * v * THREADS), 1)


def emit(spec: Spec) -> Kernel:
    """Makes the kernel: ``x, offsets, bounds, row, level, order, <epilogue>``."""
    ep, x = spec.epilogue, spec.x
    count = max(spec.segments, spec.rows)
    own = [
        Argument("x", x.dtype, x.elements),
        Argument("offsets", spec.index, spec.taps + 1),
        Argument("bounds", "int32", 2 * count + 1),
        Argument("row", "int32", spec.rows + 1),
        Argument("level", "float32", count),
        Argument("order", "int32", spec.rows),
    ]
    total = covered(ep)
    each = pixels_a_thread(total)
    kind = "int32" if x.dtype == "uint8" else "float32"
    image = x.channels * x.phases * x.plane

    def body(e: GpuEmitter, group: Any, t: Any, *views: Any) -> None:
        bx, offsets, bounds, row, level, order = views[:6]
        place, n = group[1], group[2]
        o = e.keep(e.load(order, place), "int32")
        places = [e.keep(group[0] * (THREADS * each) + v * THREADS + t - ep.out.front, "int32") for v in range(each)]
        inside = [is_pixel(e, ep.out, ep.size, p) for p in places]
        # Threads without a pixel read the first one, so that the loops need no test.
        starts = [e.keep(e.either(p, 0, i) + n * image, "int32") for p, i in zip(places, inside, strict=True)]
        acc, sums = e.local(each, kind), e.local(each, "float32")

        def segment(s: Any) -> None:
            for v in range(each):
                e.store(acc, v, e.const(0, kind))
            for sign, index in ((1, 0), (-1, 1)):
                first = e.keep(e.load(bounds, s * 2 + index), "int32")
                with e.loop(e.load(bounds, s * 2 + index + 1) - first) as j:
                    where = e.keep(e.cast(e.load(offsets, first + j), "int32"), "int32")
                    for v in range(each):
                        value = e.cast(e.load(bx, where + starts[v]), kind)
                        old = e.load(acc, v)
                        e.store(acc, v, old + value if sign > 0 else old - value)

        if spec.segments:
            for v in range(each):
                e.store(sums, v, e.const(0.0, "float32"))
            begin = e.keep(e.load(row, place), "int32")
            with e.loop(e.load(row, place + 1) - begin) as i:
                segment(begin + i)
                for v in range(each):
                    weighted = e.cast(e.load(acc, v), "float32") * e.load(level, begin + i)
                    e.store(sums, v, e.load(sums, v) + weighted)
        else:
            segment(place)
            for v in range(each):
                e.store(sums, v, e.cast(e.load(acc, v), "float32"))
        for v in range(each):
            finish(e, ep, views[6:], e.load(sums, v), n, o, places[v], inside[v])

    blocks = -(-total // (THREADS * each))
    return Kernel([*own, *arguments(ep, spec.rows, spec.pixels)], (blocks, spec.rows, x.batch), THREADS, body)
