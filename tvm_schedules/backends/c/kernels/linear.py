"""Linear layers as C: bytes are added up while the table is read, others times unpacked rows (``source/linear*.c``).

Bound by reading the table; with dense weights, by multiply-adds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_schedules.backends.c.kernels.common import linear_tables
from tvm_schedules.backends.c.kernels.common.translation import NULL, Translation, type_words
from tvm_schedules.backends.c.program import SHORT
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.rules.linear import NAME, Spec, lower
from tvm_schedules.lowering.steps import Step

__all__ = ["NAME", "Spec", "emit", "lower"]


def emit(t: Translation, index: int, step: Step) -> None:
    """A linear layer (``source/linear*.c``)."""
    spec = step.spec
    stored, params = t.stored(step.args[1])
    numbers = t.epilogue_numbers(step.args[2:5])
    factor, low, high, _ = numbers["params"]
    fields: dict[str, Any] = {"weight": NULL, "level": NULL, "terms": 1}
    dtype, ternary, exact = spec.weights, "codes" in stored, spec.x == "uint8" and spec.weights == "int8"
    if exact:
        fields |= _by_core(t, index, stored, params)
    elif ternary:
        weight = TernaryTensor.from_stored(stored, params["shape"])
        fields["codes"] = t.codes(index, weight.codes[..., None], np.zeros(1, np.int64), 1)
        fields["level"], fields["terms"] = t.levels(index, weight)[0], weight.terms
    else:
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
    if exact and not spec.residual:
        own = {**numbers, **{name: numbers[name][: spec.outputs] for name in ("scale", "bias")}}
        fields |= t.fixed(index, spec.out, None, own, _sums(stored, params))
        fields.pop("fixed_residual", None)
    t.program.need("codes.c")
    t.program.need("linear.c")
    operands = [step.args[0], step.args[5] if spec.residual else None, step.args[-1]]
    if exact:
        kind = "codes" if ternary else "dots"
        for source in ("dsp.c", "mve.c", "linear_put.c"):
            t.program.need(source)
        t.program.need(f"linear_{kind}.c")
    else:
        kind = f"{SHORT[spec.x]}_{SHORT[dtype]}"
        t.program.flag("TERN_LINEAR_CODES", int(ternary))
        t.program.need("linear_row.c", **type_words("", dtype))
        t.program.need("linear_sum.c", **type_words(spec.x, dtype))
        operands.append(t.scratch(step, spec.inputs, np.dtype(dtype).itemsize) if ternary else None)
    t.call(index, step, "linear", kind, fields, operands)


def _by_core(t: Translation, index: int, stored: dict[str, np.ndarray], params: dict[str, Any]) -> dict[str, Any]:
    """The weight in the form that each kind of core reads."""
    if "codes" in stored:
        tables, lists = linear_tables.ternary(TernaryTensor.from_stored(stored, params["shape"]).codes[0])
        t.program.flag("TERN_LISTS" if lists else "TERN_EACH_WEIGHT")
        return {"weight": t.program.by_core(f"weight_{index}", tables), "lists": lists}
    tables, fours = linear_tables.dense(stored["values"])
    return {"weight": t.program.by_core(f"weight_{index}", tables), "fours": fours}


def _sums(stored: dict[str, np.ndarray], params: dict[str, Any]) -> np.ndarray:
    """The largest absolute sum of every output, with bytes."""
    codes = "codes" in stored
    rows = TernaryTensor.from_stored(stored, params["shape"]).codes[0] if codes else stored["values"]
    rows = rows.astype(np.int64)
    return 255 * np.maximum(np.maximum(rows, 0).sum(1), np.maximum(-rows, 0).sum(1))
