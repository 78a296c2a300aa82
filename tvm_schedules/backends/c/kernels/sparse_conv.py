"""Ternary convolution as C: a row's codes become a list of offsets before it is added up (``source/ternary.c``).

Bound by additions: the pixels of a list are loaded and added one block after the other.
"""

from __future__ import annotations

from tvm_schedules.backends.c.kernels.common.translation import Translation, operands, tap_offsets, type_words
from tvm_schedules.backends.c.program import SHORT
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.rules.sparse_conv import NAME, Spec, lower
from tvm_schedules.lowering.steps import Step

__all__ = ["NAME", "Spec", "emit", "lower"]


def emit(t: Translation, index: int, step: Step) -> None:
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
