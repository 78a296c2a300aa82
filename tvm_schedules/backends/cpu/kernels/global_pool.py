"""Average over all pixels of a plane, to a plain ``[N, C]`` tensor of 8-bit or float values.

Bound by reading the planes.
"""

from __future__ import annotations

from typing import Any

from tvm_schedules.backends.cpu.kernels.common.epilogue import MAGIC
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.lowering.rules.global_pool import NAME, PARTIAL_SUMS, Spec, lower

__all__ = ["NAME", "Spec", "emit", "lower"]


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, mask, params, out``; ``out = clip(sum * params[0] + params[1], params[2:])``."""
    x, lanes = spec.x, PARTIAL_SUMS
    f32 = f"float32x{lanes}"

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], x.elements + spec.pixels, x.dtype)
        mask, params = e.view(pointers[1], spec.pixels, "uint8"), e.view(pointers[2], 4, "float32")
        out = e.view(pointers[3], x.batch * x.channels, spec.out)
        with e.jobs(x.batch * x.channels, spec.parallel) as plane:
            acc, single = e.local(lanes, "float32"), e.local(1, "float32")
            e.store(acc, 0, e.const(0.0, f32), lanes)
            with e.loop(spec.pixels // lanes) as i:
                value = e.load(bx, plane * x.plane + x.origin + i * lanes, lanes)
                inside = e.load(mask, i * lanes, lanes)
                if x.dtype == "uint8":
                    value = e.cast(value & inside, f32)
                else:
                    value = e.select(e.nonzero(inside, f"uint8x{lanes}"), value, e.const(0.0, f32))
                e.store(acc, 0, e.load(acc, 0, lanes) + value, lanes)
            e.store(single, 0, e.const(0.0, "float32"))
            with e.loop(lanes) as i:
                e.store(single, 0, e.load(single, 0) + e.load(acc, i))
            y = e.load(single, 0) * e.load(params, 0) + e.load(params, 1)
            y = e.min(e.max(y, e.load(params, 2)), e.load(params, 3))
            if spec.out == "uint8":
                y = e.cast(e.bits(y + e.const(MAGIC, "float32"), "int32"), "uint8")
            e.store(out, plane, y)

    return kernel_function([("x", x.dtype), ("mask", "uint8"), ("params", "float32"), ("out", spec.out)], body)
