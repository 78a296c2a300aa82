"""Concatenation: every operand is copied in contiguous runs, instead of a choice of operand per element."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.schedules.injective import PARALLEL_ELEMENTS
from tvm_schedules.backends.cpu.schedules.writer import template
from tvm_schedules.fallback.tags import tag_of

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["apply"]


def apply(function: Any, target: TargetSpec) -> Any:
    """Template of a tagged concatenation; None for other functions."""
    tag = tag_of(function)
    if tag is None or tag["kind"] != "concat" or len(function.params) != len(tag["sizes"]) + 1:
        return None
    outer, sizes = tag["outer"], tag["sizes"]
    total = sum(sizes)
    parallel = outer > 1 and outer * total >= PARALLEL_ELEMENTS

    def body(e: Any, *buffers: Any) -> None:
        *sources, out = buffers
        with e.loop(outer, parallel=parallel) as row:
            start = 0
            for source, size in zip(sources, sizes, strict=True):
                if size:
                    with e.loop(size) as i:
                        e.store(out, row * total + start + i, e.load(source, row * size + i))
                start += size

    return template(function, body)
