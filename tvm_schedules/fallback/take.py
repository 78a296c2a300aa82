"""Elements at indices, which :mod:`.index_guard` keeps within bounds, so that nothing has to be checked again."""

from __future__ import annotations

from typing import Any

__all__ = ["legalize"]


def legalize(bb: Any, call: Any) -> Any:
    """``relax.take`` along an axis, without a check of the indices."""
    import tvm
    from tvm import te

    x, indices = call.args
    if call.attrs.axis is None or str(call.attrs.mode) != "clip" or not hasattr(indices.ty, "shape"):
        return tvm.ir.Op.get("relax.take").get_attr("FLegalize")(bb, call)
    shape, places = ([int(dim) for dim in one.ty.shape.values] for one in (x, indices))
    axis = int(call.attrs.axis) % len(shape)
    behind = axis + len(places)

    def compute(x: Any, index: Any) -> Any:
        def element(*i: Any) -> Any:
            return x(*i[:axis], index(*i[axis:behind]), *i[behind:])

        return te.compute([*shape[:axis], *places, *shape[axis + 1 :]], element, name="take")

    return bb.call_te(compute, x, indices, primfunc_name_hint="take")
