"""Convolution with a dense weight by multiply-add in float32: float activations, or weights that 8 bits do not hold.

Bound by multiply-adds and by reading the weights, which all threads of a group read at the same place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_schedules.backends.gpu.kernels.common.epilogue import arguments, covered, finish, is_pixel
from tvm_schedules.compat.gpu import Argument, GpuEmitter, Kernel
from tvm_schedules.lowering.rules.dense_conv import NAME, Spec, lower

__all__ = ["NAME", "Spec", "emit", "lower"]

THREADS = 64


def emit(spec: Spec) -> Kernel:
    """Makes the kernel: ``x, values, offsets, <epilogue>``."""
    ep, x, window, tile = spec.epilogue, spec.x, spec.window, spec.tile
    per_group, fan = spec.rows // window.groups, x.channels // window.groups
    taps = fan * int(np.prod(window.kernel))
    blocks = -(-per_group // tile)
    own = [
        Argument("x", x.dtype, x.elements),
        Argument("values", "float32", window.groups * blocks * taps * tile),
        Argument("offsets", "int32", taps),
    ]

    def body(e: GpuEmitter, group: Any, t: Any, *views: Any) -> None:
        bx, values, offsets = views[:3]
        part, n = group[1] // blocks, group[2]
        p = e.keep(group[0] * THREADS + t - ep.out.front, "int32")
        pixel = is_pixel(e, ep.out, ep.size, p)
        base = n * (x.channels * x.phases * x.plane) + part * (fan * x.phases * x.plane)
        start = e.keep(e.either(p, 0, pixel) + base, "int32")
        acc, value = e.local(tile, "float32"), e.local(1, "float32")
        for r in range(tile):
            e.store(acc, r, e.const(0.0, "float32"))
        with e.loop(taps) as k:
            e.store(value, 0, e.cast(e.load(bx, e.load(offsets, k) + start), "float32"))
            for r in range(tile):
                weight = e.load(values, (group[1] * taps + k) * tile + r)
                e.store(acc, r, e.load(acc, r) + e.load(value, 0) * weight)
        for r in range(tile):
            inner = group[1] % blocks * tile + r
            with e.when(inner < per_group):
                finish(e, ep, views[3:], e.load(acc, r), n, part * per_group + inner, p, pixel)

    grid = (-(-covered(ep) // THREADS), window.groups * blocks, x.batch)
    return Kernel([*own, *arguments(ep, spec.rows, spec.pixels)], grid, THREADS, body)
