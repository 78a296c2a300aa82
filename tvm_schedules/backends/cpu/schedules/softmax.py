"""Softmax and log-softmax: rows in parallel, three passes of whole vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.schedules.injective import PARALLEL_ELEMENTS
from tvm_schedules.backends.cpu.schedules.writer import (
    Rows,
    evenly,
    lanes_of,
    less_first,
    scratch,
    template,
    vector_loop,
)
from tvm_schedules.fallback import approximations
from tvm_schedules.fallback.tags import tag_of

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["apply"]

_LOWEST = -3.4028234663852886e38
_COLUMNS = 128  # columns of an inner axis that one task keeps maxima and sums of (1 KiB)


def apply(function: Any, target: TargetSpec) -> Any:
    """Template of a tagged softmax; None for other functions."""
    tag = tag_of(function)
    if tag is None or tag["kind"] != "softmax":
        return None
    outer, count, inner, log = tag["outer"], tag["count"], tag["inner"], tag["log"]
    parallel = outer * count * inner * 4 >= PARALLEL_ELEMENTS

    def rows(e: Any, x: Any, y: Any) -> None:
        lanes = lanes_of(target)
        with e.loop(outer, parallel=parallel and outer > 1) as row:
            base = row * count
            scalar = scratch(e, 2)
            reduction = Rows(e, count, lanes)
            reduction.reduce(lambda i, n: e.load(x, base + i, n), e.max, _LOWEST, scalar, 0)
            shifted = less_first(e, x, base, scalar)

            if not log:

                def store_exp(i: Any, n: int) -> Any:
                    e.store(y, base + i, approximations.exp(shifted(i, n)), n)
                    return e.load(y, base + i, n)

                reduction.reduce(store_exp, lambda a, b: a + b, 0.0, scalar, 1)
                e.store(scalar, e.integer(1), e.const(1.0, "float32") / e.load(scalar, e.integer(1)))
                with vector_loop(e, count, lanes) as run:
                    run(
                        lambda i, n: e.store(
                            y, base + i, e.load(y, base + i, n) * e.splat(e.load(scalar, e.integer(1)), n), n
                        )
                    )
                return
            reduction.reduce(lambda i, n: approximations.exp(shifted(i, n)), lambda a, b: a + b, 0.0, scalar, 1)
            e.store(scalar, e.integer(1), e.b.log(e.load(scalar, e.integer(1))))
            with vector_loop(e, count, lanes) as run:
                run(lambda i, n: e.store(y, base + i, shifted(i, n) - e.splat(e.load(scalar, e.integer(1)), n), n))

    def columns(e: Any, x: Any, y: Any) -> None:
        chunks, width = evenly(inner, _COLUMNS)
        with e.loop(outer * chunks, parallel=parallel and outer * chunks > 1) as task:
            # The last chunk starts earlier instead of being shorter; both tasks write the same values there.
            start = e.min(task % chunks * width, e.integer(inner - width))
            base = task // chunks * (count * inner) + start
            top, total = scratch(e, width), scratch(e, width)
            with e.loop(width) as i:
                e.store(top, i, e.const(_LOWEST, "float32"))
                e.store(total, i, e.const(0.0, "float32"))
            with e.loop(count) as k, e.loop(width) as i:
                e.store(top, i, e.max(e.load(top, i), e.load(x, base + k * inner + i)))
            with e.loop(count) as k, e.loop(width) as i:
                e.store(
                    total, i, e.load(total, i) + approximations.exp(e.load(x, base + k * inner + i) - e.load(top, i))
                )
            with e.loop(width) as i:
                value = e.load(total, i)
                e.store(total, i, e.b.log(value) if log else e.const(1.0, "float32") / value)
            with e.loop(count) as k, e.loop(width) as i:
                at = base + k * inner + i
                shifted = e.load(x, at) - e.load(top, i)
                e.store(y, at, shifted - e.load(total, i) if log else approximations.exp(shifted) * e.load(total, i))

    return template(function, rows if inner == 1 else columns)
