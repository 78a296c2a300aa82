"""Linear layers over plain rows by multiply-add in float32, one thread an output.

What :mod:`.linear_dot` leaves: float activations, several terms, unequal levels.

Bound by reading the weights.
"""

from __future__ import annotations

from typing import Any

from tvm_schedules.backends.gpu.kernels.common.epilogue import limits, rounded
from tvm_schedules.compat.gpu import Argument, GpuEmitter, Kernel
from tvm_schedules.lowering.rules.linear import NAME, Spec, lower

__all__ = ["NAME", "Spec", "emit", "lower"]

THREADS = 64


def emit(spec: Spec) -> Kernel:
    """Makes the kernel: ``x, values, scale, bias, params, [residual,] out`` (scale, bias in whole vectors)."""
    K, O = spec.inputs, spec.outputs  # noqa: E741
    own = [
        Argument("x", spec.x, spec.batch * K),
        Argument("values", spec.weights, K * spec.padded),
        Argument("scale", "float32", spec.padded),
        Argument("bias", "float32", spec.padded),
        Argument("params", "float32", 4),
        *([Argument("residual", spec.residual, spec.batch * O)] if spec.residual else []),
        Argument("out", spec.out, spec.batch * O),
    ]
    kind = "int32" if spec.exact else "float32"

    def body(e: GpuEmitter, group: Any, t: Any, *views: Any) -> None:
        x, values, scale, bias, params, *residual, out = views
        o, m = e.keep(group[0] * THREADS + t, "int32"), group[1]
        with e.when(o < O):
            acc = e.local(1, kind)
            e.store(acc, 0, e.const(0, kind))
            with e.loop(K) as k:
                pixel, weight = e.load(x, m * K + k), e.load(values, k * spec.padded + o)
                e.store(acc, 0, e.load(acc, 0) + e.cast(pixel, kind) * e.cast(weight, kind))
            y = e.cast(e.load(acc, 0), "float32") * e.load(scale, o) + e.load(bias, o)
            if residual:
                y = y + e.cast(e.load(residual[0], m * O + o), "float32") * e.load(params, 0)
            e.store(out, m * O + o, rounded(e, limits(e, y, params), spec.out))

    return Kernel(own, (-(-O // THREADS), spec.batch, 1), THREADS, body)
