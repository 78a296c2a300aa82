"""Ternary convolution as C: a row's codes become a list of offsets before it is added up (``source/ternary.c``).

Rows that have their zeros together are computed from lists that they share (``source/ternary_groups.c``).

Bound by additions: the pixels of a list are loaded and added one block after the other.
"""

from __future__ import annotations

import numpy as np

from tvm_schedules.backends.c.kernels.common.row_groups import row_groups
from tvm_schedules.backends.c.kernels.common.translation import NULL, Translation, operands, tap_offsets, type_words
from tvm_schedules.backends.c.program import SHORT
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.rules.sparse_conv import NAME, Spec, lower
from tvm_schedules.lowering.steps import Step

__all__ = ["NAME", "Spec", "emit", "lower"]


def emit(t: Translation, index: int, step: Step) -> None:
    """A convolution with ternary weights (``source/ternary.c``, ``source/ternary_groups.c``)."""
    spec, x = step.spec, step.spec.x
    stored, params = t.stored(step.args[1])
    weight = TernaryTensor.from_stored(stored, params["shape"])
    window, (terms, rows, fan) = params["window"], weight.codes.shape[:3]
    taps = tap_offsets(x, window)
    level, unequal = t.levels(index, weight)
    taps_of_sign, exact = _taps(weight.codes), x.dtype == "uint8" and level is NULL
    split = x.dtype == "float32" or level is not NULL or taps_of_sign.max() > params["limit"]
    groups = None if split else row_groups(weight.codes[0].reshape(rows, -1))
    if groups is not None and rows // window["groups"] % groups.mix.shape[1]:
        groups = None
    listed = weight.codes if groups is None else groups.lists
    codes = t.codes(index, listed.reshape(*listed.shape[:2], fan, -1), taps, x.phases * x.plane)
    numbers = t.epilogue_numbers(step.args[6:9])
    fields = {"codes": codes, "level": level, "terms": terms, "unequal": unequal}
    fields["limit"] = params["limit"]
    fields |= t.geometry(x, rows, window["groups"])
    fields["finish"] = t.finish(
        index, x, spec.epilogue, numbers, np.minimum(255 * taps_of_sign, 32767) if exact else None
    )
    short = SHORT[x.dtype]
    t.program.need("codes.c")
    t.program.need("offsets.c")
    if x.dtype == "uint8":
        for source in ("dsp.c", "sum_u8_lanes.c", "sum_u8_dsp.c", "sum_u8_mve.c"):
            t.program.need(source)
        t.need_finish("i16")
    if split:
        t.program.flag("TERN_LEVELS")
        t.program.need(f"term_{short}.c")
        t.program.need("ternary_terms.c", **type_words(x.dtype))
        t.need_finish("f32")
    residual, out = operands(spec.epilogue, step.args)
    scratch = t.scratch(step, fan * len(taps) + 4 + len(listed) * codes["capacity"])
    if groups is None:
        t.program.need(f"ternary_{short}.c")
        t.program.need("ternary.c", **type_words(x.dtype))
        t.call(index, step, "ternary", short, fields, [step.args[0], residual, out, scratch])
        return
    t.program.need("ternary_groups.c")
    lists, together = groups.mix.shape
    grouped = {"layer": fields, "mix": t.program.array(f"mix_{index}", groups.mix)}
    grouped |= {"lists": lists, "together": together}
    t.call(index, step, "ternary_groups", short, grouped, [step.args[0], residual, out, scratch])


def _taps(codes: np.ndarray) -> np.ndarray:
    """The number of weights of one sign in every row of ``[terms, rows, ...]``, of the sign that has more of them."""
    flat = codes.reshape(*codes.shape[:2], -1)
    return np.maximum((flat == 1).sum(2), (flat == -1).sum(2)).max(0)
