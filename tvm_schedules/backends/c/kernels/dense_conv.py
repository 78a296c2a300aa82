"""Convolution with 8-bit or float weights as C (``source/dense_sum.c``).

Bound by multiply-adds, which the C compiler vectorizes where it can.
"""

from __future__ import annotations

from tvm_schedules.backends.c.kernels.common.translation import (
    Translation,
    operands,
    sum_words,
    tap_offsets,
    type_words,
)
from tvm_schedules.backends.c.program import SHORT
from tvm_schedules.lowering.rules.dense_conv import NAME, Spec, lower
from tvm_schedules.lowering.steps import Step

__all__ = ["NAME", "Spec", "emit", "lower"]


def emit(t: Translation, index: int, step: Step) -> None:
    """A convolution with 8-bit or float weights (``source/dense_sum.c``)."""
    spec, x = step.spec, step.spec.x
    stored, params = t.stored(step.args[1])
    values = stored["values"]
    rows, fan = values.shape[:2]
    taps = tap_offsets(x, params["window"])
    fields = {
        "weight": t.program.array(f"weight_{index}", values),
        "tap": t.program.array(f"tap_{index}", taps, offsets=True),
        "channels": fan,
        "taps": len(taps),
        "channel": x.phases * x.plane,
    }
    fields |= t.geometry(x, rows, params["window"]["groups"])
    fields["finish"] = t.finish(index, spec.epilogue, t.epilogue_numbers(step.args[3:6]))
    suffix = f"{SHORT[x.dtype]}_{SHORT[values.dtype.name]}"
    sums = sum_words(x.dtype, values.dtype.name, "sum[i]")
    t.program.need("dense.c")
    t.program.need("dense_sum.c", **type_words(x.dtype, values.dtype.name), **sums)
    residual, out = operands(spec.epilogue, step.args)
    t.call(index, step, "dense", suffix, fields, [step.args[0], residual, out])
