"""Layers with weights as C: ternary and dense convolutions, linear layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_schedules.backends.c.kernels.translation import NULL, Translation, operands, sum_words, tap_offsets, type_words
from tvm_schedules.backends.c.program import SHORT
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.steps import Step

__all__ = ["dense", "linear", "ternary"]


def ternary(t: Translation, index: int, step: Step) -> None:
    """A convolution with ternary weights (``source/ternary.c``)."""
    spec, x = step.spec, step.spec.x
    stored, params = t.stored(step.args[1])
    weight = TernaryTensor.from_stored(stored, params["shape"])
    window, (terms, rows, fan) = params["window"], weight.codes.shape[:3]
    taps = tap_offsets(x, window)
    codes = t.codes(index, weight.codes.reshape(terms, rows, fan, -1), taps, x.phases * x.plane)
    level, unequal = t.levels(index, weight)
    numbers = t.epilogue_numbers(step.args[6:9])
    fields = {"codes": codes, "level": level, "terms": terms, "unequal": unequal}
    fields["limit"] = params["limit"]
    fields |= t.geometry(x, rows, window["groups"])
    fields["finish"] = t.finish(index, spec.epilogue, numbers)
    short = SHORT[x.dtype]
    t.program.need("codes.c")
    t.program.need("offsets.c")
    t.program.need(f"ternary_{short}.c")
    t.program.need("ternary.c", **type_words(x.dtype))
    residual, out = operands(spec.epilogue, step.args)
    scratch = t.scratch(step, fan * len(taps) + 4 + terms * codes["capacity"])
    t.call(index, step, "ternary", short, fields, [step.args[0], residual, out, scratch])


def dense(t: Translation, index: int, step: Step) -> None:
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


def linear(t: Translation, index: int, step: Step) -> None:
    """A linear layer (``source/linear_sum.c``)."""
    spec = step.spec
    stored, params = t.stored(step.args[1])
    numbers = t.epilogue_numbers(step.args[2:5])
    factor, low, high, _ = numbers["params"]
    fields: dict[str, Any] = {"weight": NULL, "level": NULL, "terms": 1}
    dtype, scratch = spec.weights, None
    if "codes" in stored:
        weight = TernaryTensor.from_stored(stored, params["shape"])
        fields["codes"] = t.codes(index, weight.codes[..., None], np.zeros(1, np.int64), 1)
        fields["level"], fields["terms"] = t.levels(index, weight)[0], weight.terms
        t.program.flag("TERN_LINEAR_CODES")
        scratch = t.scratch(step, spec.inputs, np.dtype(dtype).itemsize)
    else:
        t.program.flag("TERN_LINEAR_CODES", 0)
        fields["weight"] = t.program.array(f"weight_{index}", stored["values"])
    fields |= {
        "scale": t.program.array(f"scale_{index}", numbers["scale"][: spec.outputs]),
        "bias": t.program.array(f"bias_{index}", numbers["bias"][: spec.outputs]),
        "factor": factor,
        "low": low,
        "high": high,
        "rows": spec.batch,
        "inputs": spec.inputs,
        "outputs": spec.outputs,
        "residual_float": spec.residual == "float32",
        "output_float": spec.out == "float32",
    }
    t.program.need("codes.c")
    t.program.need("linear_row.c", **type_words("", dtype))
    t.program.need("linear.c")
    t.program.need("linear_sum.c", **type_words(spec.x, dtype), **sum_words(spec.x, dtype, "sum"))
    args = [arg for arg in step.args if arg is not scratch]
    operands = [args[0], args[5] if spec.residual else None, args[-1], scratch]
    t.call(index, step, "linear", f"{SHORT[spec.x]}_{SHORT[dtype]}", fields, operands)
