"""Transposes that move the last axis: squares of the two contiguous axes are turned in registers.

One loop over either axis would read or write one element a cache line.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.kernels.common.tiles import transposed
from tvm_schedules.backends.cpu.schedules.injective import PARALLEL_ELEMENTS
from tvm_schedules.backends.cpu.schedules.writer import lanes_of, template
from tvm_schedules.fallback.tags import tag_of

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["apply"]


def apply(function: Any, target: TargetSpec) -> Any:
    """Template of a tagged transpose; None for other functions, and where an axis is shorter than a vector."""
    tag = tag_of(function)
    if tag is None or tag["kind"] != "transpose":
        return None
    shape, axes, lanes = tag["shape"], tag["axes"], lanes_of(target)
    last, first = len(shape) - 1, axes[-1]  # the contiguous axes of what is read, and of what is written
    if min(shape[last], shape[first]) < lanes:
        return None
    read = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    written = [math.prod(shape[a] for a in axes[axes.index(i) + 1 :]) for i in range(len(shape))]
    outer = [i for i in axes if i not in (first, last)]
    blocks = [-(-shape[axis] // lanes) for axis in (last, first)]
    count = math.prod(shape[i] for i in outer) * blocks[0]

    def body(e: Any, x: Any, y: Any) -> None:
        with e.loop(count, parallel=count > 1 and math.prod(shape) >= PARALLEL_ELEMENTS) as task:
            number, source, place = task // blocks[0], e.integer(0), e.integer(0)
            for axis in reversed(outer):
                source = source + number % shape[axis] * read[axis]
                place = place + number % shape[axis] * written[axis]
                number = number // shape[axis]
            # Squares at an edge begin earlier: they write the same values again.
            column = e.min(task % blocks[0] * lanes, e.integer(shape[last] - lanes))
            with e.loop(blocks[1]) as i:
                row = e.min(e.expr(i * lanes), e.integer(shape[first] - lanes))
                at, to = source + column + row * read[first], place + row + column * written[last]
                lines = transposed(e, [e.load(x, at + k * read[first], lanes) for k in range(lanes)])
                for k, line in enumerate(lines):
                    e.store(y, to + k * written[last], line, lanes)

    return template(function, body)
