"""The largest or smallest elements along an axis, in order: TVM's own calls a function of its full runtime.

Every element is compared with all others, which says at once where it goes. That is no work for short axes, and needs
neither a loop that depends on data nor memory.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["legalize"]

MOST_COMPARISONS = 1 << 27
"""Comparisons of a call at most, some tens of milliseconds; what has more is left to be refused by name."""


def legalize(bb: Any, call: Any) -> Any:
    """``relax.topk`` as a function for the rank of every element, and one for each result."""
    import tvm
    from tvm import relax, te, tirx

    attrs, data = call.attrs, call.args[0]
    shape, dtype = [int(dim) for dim in data.ty.shape.values], str(data.ty.dtype)
    axis, which = int(attrs.axis) % max(1, len(shape)), str(attrs.ret_type)
    length = shape[axis] if shape else 0
    if not length or math.prod(shape) * length > MOST_COMPARISONS or dtype == "bool":
        return tvm.ir.Op.get("relax.topk").get_attr("FLegalize")(bb, call)
    wanted = int(attrs.k) if int(attrs.k) >= 0 else length
    kept = [*shape[:axis], wanted, *shape[axis + 1 :]]

    keys = bb.emit(bb.call_te(lambda x: te.compute(shape, lambda *i: _key(x(*i), dtype), name="key"), data,
                              primfunc_name_hint="key"))  # fmt: skip

    def rank(x: Any) -> Any:
        j = te.reduce_axis((0, length), name="j")

        def element(*place: Any) -> Any:
            own, other = x(*place), x(*place[:axis], j, *place[axis + 1 :])
            before = other > own if bool(attrs.largest) else other < own
            ahead = tirx.any(before, tirx.all(other == own, j < place[axis]))
            return te.sum(tirx.Select(ahead, tirx.const(1, "int32"), tirx.const(0, "int32")), axis=j)

        return te.compute(shape, element, name="rank")

    ranks = bb.emit(bb.call_te(rank, keys, primfunc_name_hint="rank"))

    def picked(value: Any, kind: str) -> Any:
        def compute(x: Any, ranks: Any) -> Any:
            j = te.reduce_axis((0, length), name="j")

            def element(*place: Any) -> Any:
                there = (*place[:axis], j, *place[axis + 1 :])
                return te.sum(tirx.Select(ranks(*there) == place[axis], value(x, there), tirx.const(0, kind)), axis=j)

            return te.compute(kept, element, name="top")

        return bb.call_te(compute, data, ranks, primfunc_name_hint="top")

    index_type = str(attrs.dtype)
    values = picked(lambda x, there: x(*there), dtype) if which != "indices" else None
    places = picked(lambda x, there: there[axis].astype(index_type), index_type) if which != "values" else None
    found = [one for one in (values, places) if one is not None]
    return relax.Tuple([bb.emit(one) for one in found]) if which == "both" else found[0]


def _key(x: Any, dtype: str) -> Any:
    """An integer that is larger where a number is; comparisons of floats are no order, since NaN is in none of them.

    The bits of a float are one, those behind the sign turned where that is set; NaN is at the end that its sign says.
    """
    import tvm
    from tvm import tirx

    if not dtype.startswith("float"):
        return x
    wide = "int64" if dtype == "float64" else "int32"
    number = x if dtype in ("float64", "float32") else tirx.Cast(tvm.ir.PrimType("float32"), x)
    kind = "float64" if wide == "int64" else "float32"
    number = tirx.Select(number == tirx.const(0, kind), tirx.const(0, kind), number)  # minus zero is zero
    bits = tirx.reinterpret(wide, number)
    last = 63 if wide == "int64" else 31
    return bits ^ ((bits >> tirx.const(last, wide)) & tirx.const((1 << last) - 1, wide))
