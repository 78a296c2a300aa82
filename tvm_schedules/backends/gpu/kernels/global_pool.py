"""Average over all pixels of a plane: a group of threads a plane, added up in their shared memory.

Bound by reading the planes.
"""

from __future__ import annotations

from typing import Any

from tvm_schedules.backends.gpu.kernels.common.epilogue import is_pixel, rounded
from tvm_schedules.compat.gpu import Argument, GpuEmitter, Kernel
from tvm_schedules.lowering.rules.global_pool import NAME, Spec, lower

__all__ = ["NAME", "Spec", "emit", "lower"]

THREADS = 64


def emit(spec: Spec) -> Kernel:
    """Makes the kernel: ``x, mask, params, out``; ``out = clip(sum * params[0] + params[1], params[2:])``."""
    x = spec.x
    run = x.run(x.dims)
    kind = "int32" if x.dtype == "uint8" else "float32"
    own = [
        Argument("x", x.dtype, x.elements),
        Argument("mask", "uint8", spec.pixels),
        Argument("params", "float32", 4),
        Argument("out", spec.out, x.batch * x.channels),
    ]

    def body(e: GpuEmitter, group: Any, t: Any, bx: Any, mask: Any, params: Any, out: Any) -> None:
        plane = e.keep(group[1] * x.channels + group[0], "int32")
        acc, shared = e.local(1, kind), e.shared(THREADS, kind)
        e.store(acc, 0, e.const(0, kind))
        with e.loop(-(-run // THREADS)) as i:
            p = i * THREADS + t
            with e.when(is_pixel(e, x, x.dims, p)):
                e.store(acc, 0, e.load(acc, 0) + e.cast(e.load(bx, plane * x.plane + x.origin + p), kind))
        e.store(shared, t, e.load(acc, 0))
        step = THREADS // 2
        while step:
            e.barrier()
            with e.when(t < step):
                e.store(shared, t, e.load(shared, t) + e.load(shared, t + step))
            step //= 2
        with e.when(t == 0):
            y = e.cast(e.load(shared, 0), "float32") * e.load(params, 0) + e.load(params, 1)
            e.store(out, plane, rounded(e, e.min(e.max(y, e.load(params, 2)), e.load(params, 3)), spec.out))

    return Kernel(own, (x.channels, x.batch, 1), THREADS, body)
