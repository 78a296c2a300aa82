"""Cumulative sum: one pass along the axis, other axes in parallel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.schedules.injective import PARALLEL_ELEMENTS
from tvm_schedules.backends.cpu.schedules.writer import template
from tvm_schedules.fallback.tags import tag_of

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["apply"]


def apply(function: Any, target: TargetSpec) -> Any:
    """Template of a tagged cumulative sum; None for other functions."""
    tag = tag_of(function)
    if tag is None or tag["kind"] != "scan":
        return None
    outer, count, inner, exclusive = tag["outer"], tag["count"], tag["inner"], tag["exclusive"]
    dtype = str(function.params[0].dtype)
    parallel = outer > 1 and outer * count * inner >= PARALLEL_ELEMENTS

    def body(e: Any, x: Any, y: Any) -> None:
        with e.loop(outer, parallel=parallel) as row:
            base = row * (count * inner)
            with e.loop(inner) as i:
                e.store(y, base + i, e.const(0, dtype) if exclusive else e.load(x, base + i))
            with e.loop(count - 1) as k, e.loop(inner) as i:
                at = base + k * inner + i
                e.store(y, at + inner, e.load(y, at) + e.load(x, at if exclusive else at + inner))

    return template(function, body)
