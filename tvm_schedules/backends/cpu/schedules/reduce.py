"""Sum, mean, maximum, minimum, product and variance over neighboring axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.schedules.injective import PARALLEL_ELEMENTS
from tvm_schedules.backends.cpu.schedules.writer import Rows, evenly, lanes_of, scratch, template
from tvm_schedules.fallback.tags import tag_of

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["apply"]

_COLUMNS = 128  # accumulators of one task, columns that lie next to each other
_IDENTITY = {"sum": 0.0, "mean": 0.0, "variance": 0.0, "prod": 1.0, "max": -math.inf, "min": math.inf}


def _combine(e: Any, operation: str) -> Callable[[Any, Any], Any]:
    if operation == "prod":
        return lambda a, b: a * b
    if operation in ("max", "min"):
        return e.max if operation == "max" else e.min
    return lambda a, b: a + b


def apply(function: Any, target: TargetSpec) -> Any:
    """Template of a tagged reduction; None for other functions."""
    tag = tag_of(function)
    if tag is None or tag["kind"] != "reduce":
        return None
    operation, outer, count, inner = tag["operation"], tag["outer"], tag["count"], tag["inner"]
    identity = _IDENTITY[operation]
    parallel = outer * count * inner >= PARALLEL_ELEMENTS

    def rows(e: Any, x: Any, y: Any) -> None:
        combine = _combine(e, operation)
        with e.loop(outer, parallel=parallel and outer > 1) as row:
            base = row * count
            scalar = scratch(e, 2)
            reduction = Rows(e, count, lanes_of(target))
            reduction.reduce(lambda i, n: e.load(x, base + i, n), combine, identity, scalar, 0)
            share = e.const(1.0 / count, "float32")
            result = e.load(scalar, e.integer(0))
            if operation == "variance":
                e.store(scalar, e.integer(0), result * share)

                def squared(i: Any, n: int) -> Any:
                    centered = e.load(x, base + i, n) - e.splat(e.load(scalar, e.integer(0)), n)
                    return centered * centered

                reduction.reduce(squared, combine, 0.0, scalar, 1)
                result = e.load(scalar, e.integer(1))
            e.store(y, e.expr(row), result * share if operation in ("mean", "variance") else result)

    def columns(e: Any, x: Any, y: Any) -> None:
        combine = _combine(e, operation)
        chunks, width = evenly(inner, _COLUMNS)
        with e.loop(outer * chunks, parallel=parallel and outer * chunks > 1) as task:
            start = e.min(task % chunks * width, e.integer(inner - width))  # the last chunk overlaps, see softmax
            base = task // chunks * (count * inner) + start
            total, mean = scratch(e, width), scratch(e, width)
            share = e.const(1.0 / count, "float32")

            def accumulate(value: Callable[[Any, Any], Any]) -> None:
                with e.loop(width) as i:
                    e.store(total, i, e.const(identity, "float32"))
                with e.loop(count) as k, e.loop(width) as i:
                    e.store(total, i, combine(e.load(total, i), value(k, i)))

            accumulate(lambda k, i: e.load(x, base + k * inner + i))
            if operation == "variance":
                with e.loop(width) as i:
                    e.store(mean, i, e.load(total, i) * share)

                def squared(k: Any, i: Any) -> Any:
                    centered = e.load(x, base + k * inner + i) - e.load(mean, i)
                    return centered * centered

                accumulate(squared)
            with e.loop(width) as i:
                value = e.load(total, i)
                e.store(
                    y, task // chunks * inner + start + i, value * share if operation in ("mean", "variance") else value
                )

    return template(function, rows if inner == 1 else columns)
