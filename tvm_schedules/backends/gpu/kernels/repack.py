"""Copies a tensor from one layout to another, converting between float and 8-bit; one thread an element written.

Bound by reading and writing memory.
"""

from __future__ import annotations

from typing import Any

from tvm_schedules.compat.gpu import Argument, GpuEmitter, Kernel
from tvm_schedules.ir.layout import Halo
from tvm_schedules.lowering.rules.repack import NAME, Spec, Strided

__all__ = ["NAME", "Spec", "emit"]

THREADS = 64


def emit(spec: Spec) -> Kernel:
    """Makes the kernel: ``source, params, out``; the conversions are those of the CPU's kernel."""
    source, target = spec.source, spec.target
    if isinstance(source, Halo) and source.phase != (1, 1, 1):
        raise ValueError(f"a repack reads planes that are not split into phases, got phase {source.phase}")
    own = [
        Argument("source", source.dtype, source.elements),
        Argument("params", "float32", 4),
        Argument("out", target.dtype, target.elements),
    ]
    if isinstance(target, Halo):
        phase, parts, span = target.phase, target.phases, target.plane
        steps = target.steps()
    else:
        phase, parts, span = (1, 1, 1), 1, target.dims[0] * target.dims[1] * target.dims[2]
        steps = (target.dims[1] * target.dims[2], target.dims[2], 1)

    def convert(e: GpuEmitter, value: Any, params: Any) -> Any:
        if source.dtype == target.dtype:
            return value
        number = [e.load(params, i) for i in range(4)]
        if target.dtype == "float32":
            return (e.cast(value, "float32") - number[1]) * number[0]
        y = e.min(e.max(e.round(value / number[0]) + number[1], number[2]), number[3])
        return e.cast(e.cast(y, "int32"), "uint8")

    def body(e: GpuEmitter, group: Any, t: Any, src: Any, params: Any, out: Any) -> None:
        i = e.keep(group[0] * THREADS + t, "int32")
        part, c, n = group[1] % parts, group[1] // parts, group[2]
        p = i - (target.origin if isinstance(target, Halo) else 0)
        q = e.keep(e.max(p, e.integer(0)), "int32")
        div, mod = e.t.truncdiv, e.t.truncmod
        at = [div(q, steps[0]), div(mod(q, steps[0]), steps[1]), mod(q, steps[1])]
        first = [part // (phase[1] * phase[2]), part // phase[2] % phase[1], part % phase[2]]
        d, h, w = (a * s + f for a, s, f in zip(at, phase, first, strict=True))
        inside = e.both(p >= 0, d < source.dims[0], h < source.dims[1], w < source.dims[2])
        if isinstance(source, Strided):
            by = source.strides
            read = n * by[0] + c * by[1] + d * by[2] + h * by[3] + w * by[4]
        else:
            sd, sh, sw = source.steps()
            read = (n * source.channels + c) * source.plane + source.origin + d * sd + h * sh + w * sw
        if isinstance(target, Strided):
            by = target.strides
            write = n * by[0] + c * by[1] + at[0] * by[2] + at[1] * by[3] + at[2] * by[4]
        else:
            write = ((n * target.channels + c) * parts + part) * target.plane + i
        with e.when(e.both(i < span, inside)):
            e.store(out, write, convert(e, e.load(src, read), params))
        if isinstance(target, Halo):
            fill = e.const(int(target.fill) if target.dtype == "uint8" else target.fill, target.dtype)
            with e.when(e.both(i < span, e.t.Not(inside))):
                e.store(out, write, fill)

    return Kernel(own, (-(-span // THREADS), target.channels * parts, target.batch), THREADS, body)
