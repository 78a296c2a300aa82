"""Ternary convolution as C: a row's codes become a list of offsets before it is added up (``source/ternary.c``).

Rows that have their zeros together are computed from lists that they share (``source/ternary_groups.c``).

Bound by additions: the pixels of a list are loaded and added one block after the other.
"""

from __future__ import annotations

import numpy as np

from tvm_schedules.backends.c.kernels.common.row_groups import row_groups
from tvm_schedules.backends.c.kernels.common.translation import (
    NULL,
    SUMS,
    Translation,
    operands,
    tap_offsets,
    type_words,
)
from tvm_schedules.backends.c.layout import Parted, Written
from tvm_schedules.backends.c.program import SHORT
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.rules.sparse_conv import NAME, Spec, lower
from tvm_schedules.lowering.steps import Step

__all__ = ["NAME", "Spec", "emit", "lower"]

MOST_TAPS = 2**24 // 255
"""Weights of one sign whose sum of bytes is exact as a float too."""


def emit(t: Translation, index: int, step: Step) -> None:
    """A convolution with ternary weights (``source/ternary.c``, ``source/ternary_groups.c``)."""
    spec, x = step.spec, step.spec.x
    stored, params = t.stored(step.args[1])
    weight = TernaryTensor.from_stored(stored, params["shape"])
    window, (terms, rows, fan) = params["window"], weight.codes.shape[:3]
    taps = tap_offsets(x, window)
    level, unequal = t.levels(index, weight)
    taps_of_sign = _taps(weight.codes)
    exact = x.dtype == "uint8" and level is NULL and taps_of_sign.max() <= MOST_TAPS
    wide = exact and bool(taps_of_sign.max() > params["limit"])
    # Rows of a group are finished by turns. Phases are made of one plane after the other, and what is written behind a
    # plane before its rows are moved has to be gone when the next one is written.
    planes = spec.epilogue.out
    alone = not exact or isinstance(planes, Parted) or (isinstance(planes, Written) and planes.written > planes.plane)
    groups = None if alone else row_groups(weight.codes[0].reshape(rows, -1))
    if groups is not None and rows // window["groups"] % groups.mix.shape[1]:
        groups = None
    listed = weight.codes if groups is None else groups.lists
    codes = t.codes(index, listed.reshape(*listed.shape[:2], fan, -1), taps, x.phases * x.plane)
    numbers = t.epilogue_numbers(step.args[6:9])
    fields = {"codes": codes, "level": level, "terms": terms, "unequal": unequal}
    fields |= {"limit": params["limit"], "wide": wide}
    fields |= t.geometry(x, rows, window["groups"])
    most = 255 * taps_of_sign if wide else np.minimum(255 * taps_of_sign, 32767)
    fields["finish"] = t.finish(index, x, spec.epilogue, numbers, most if exact else None)
    short = SHORT[x.dtype]
    t.program.need("codes.c")
    t.program.need("offsets.c")
    if x.dtype == "uint8":
        for source in ("dsp.c", "sum_u8_lanes.c", "sum_u8_dsp.c", "sum_u8_mve.c", "sum_taps.c"):
            t.program.need(source)
        for kind in ("i32",) if groups and wide else ("i16", "i32")[: 1 + wide]:
            t.need_finish(kind)
    if not exact:
        t.program.flag("TERN_LEVELS")
        t.program.need(f"term_{short}.c")
        t.program.need("ternary_terms.c", **type_words(x.dtype))
        t.need_finish("f32")
    residual, out = operands(spec.epilogue, step.args)
    scratch = t.scratch(step, fan * len(taps) + 4 + len(listed) * codes["capacity"])
    if groups is None:
        t.program.flag("TERN_LONG_ROWS", int(wide))
        t.program.need(f"ternary_{short}.c")
        t.program.need("ternary.c", **type_words(x.dtype))
        t.call(index, step, "ternary", short, fields, [step.args[0], residual, out, scratch])
        return
    sums = "i32" if wide else "i16"
    t.program.need("ternary_groups.c")
    t.program.need("ternary_groups_sums.c", S=sums, SUM=SUMS[sums])
    lists, together = groups.mix.shape
    grouped = {"layer": fields, "mix": t.program.array(f"mix_{index}", groups.mix)}
    grouped |= {"lists": lists, "together": together}
    t.call(index, step, "ternary_groups", sums, grouped, [step.args[0], residual, out, scratch])


def _taps(codes: np.ndarray) -> np.ndarray:
    """The number of weights of one sign in every row of ``[terms, rows, ...]``, of the sign that has more of them."""
    flat = codes.reshape(*codes.shape[:2], -1)
    return np.maximum((flat == 1).sum(2), (flat == -1).sum(2)).max(0)
