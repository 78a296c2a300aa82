"""ScatterElements and ScatterND: one pass over the updates; those that point outside are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.schedules.writer import template
from tvm_schedules.fallback.scatter import combined
from tvm_schedules.fallback.tags import tag_of

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["apply"]


def apply(function: Any, target: TargetSpec) -> Any:
    """Template of a tagged scatter; None for other functions."""
    tag = tag_of(function)
    if tag is None or tag["kind"] != "scatter":
        return None
    kind = str(function.params[1].dtype)
    size, count, width = tag["size"], tag["entries"], tag["slice"]

    def body(e: Any, data: Any, indices: Any, updates: Any, out: Any) -> None:
        with e.loop(size) as i:
            e.store(out, i, e.load(data, i))
        with e.loop(count) as entry:
            address: Any = e.expr(0)
            rest = entry
            for extent, stride in tag["places"]:
                address = address + rest % extent * stride
                rest = rest // extent
            inside = []
            for k, (low, extent, stride) in enumerate(tag["coordinates"]):
                at = e.load(indices, entry * len(tag["coordinates"]) + k)
                limit = e.const(extent, kind)
                inside += [at >= e.const(low, kind), at < limit]
                wrapped = at + e.t.Select(at < e.const(0, kind), limit, e.const(0, kind))
                address = address + e.cast(wrapped, "int32") * stride
            valid = inside[0]
            for condition in inside[1:]:
                valid = e.t.And(valid, condition)
            with e.when(valid), e.loop(width) as i:
                new = e.load(updates, entry * width + i)
                e.store(out, address + i, combined(e.t, tag["reduction"], e.load(out, address + i), new))

    return template(function, body)
