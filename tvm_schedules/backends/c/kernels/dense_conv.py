"""Convolution with 8-bit or float weights as C (``source/dense_u8.c``, ``dense_sum.c``).

Bound by multiply-adds, which the C compiler vectorizes where it can.
"""

from __future__ import annotations

import numpy as np

from tvm_schedules.backends.c.kernels.common.translation import Translation, operands, tap_offsets, type_words
from tvm_schedules.backends.c.program import SHORT
from tvm_schedules.lowering.rules.dense_conv import NAME, Spec, lower
from tvm_schedules.lowering.steps import Step

__all__ = ["NAME", "Spec", "emit", "lower"]


def emit(t: Translation, index: int, step: Step) -> None:
    """A convolution with 8-bit or float weights (``source/dense_u8.c``, ``dense_sum.c``)."""
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
    exact = x.dtype == "uint8" and values.dtype == np.int8
    sums = _sums(values) if exact else None
    fields["finish"] = t.finish(index, x, spec.epilogue, t.epilogue_numbers(step.args[3:6]), sums)
    suffix = f"{SHORT[x.dtype]}_{SHORT[values.dtype.name]}"
    residual, out = operands(spec.epilogue, step.args)
    buffers = [step.args[0], residual, out]
    t.program.need("dense.c")
    if exact:
        t.need_finish("i32")
        t.program.need("dsp.c")
        t.program.need("dense_u8.c")
        buffers.append(t.scratch(step, 2 * (fan * len(taps) + 1)))  # pairs of an offset and a weight
    else:
        t.need_finish("f32")
        t.program.need("dense_sum.c", **type_words(x.dtype, values.dtype.name))
    t.call(index, step, "dense", suffix, fields, buffers)


def _sums(values: np.ndarray) -> np.ndarray:
    """The largest absolute sum of every row, with bytes."""
    rows = values.reshape(len(values), -1).astype(np.int64)
    return 255 * np.maximum(np.maximum(rows, 0).sum(1), np.maximum(-rows, 0).sum(1))
