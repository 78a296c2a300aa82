"""Softmax and log-softmax: rows in parallel, three passes of whole vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.schedules.injective import PARALLEL_ELEMENTS
from tvm_schedules.backends.cpu.schedules.writer import (
    Rows,
    accumulators,
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
_VECTORS = 4  # vectors of columns, whose maxima and sums are in registers


def apply(function: Any, target: TargetSpec) -> Any:
    """Template of a tagged softmax; None for other functions."""
    tag = tag_of(function)
    if tag is None or tag["kind"] != "softmax":
        return None
    outer, count, inner, log = tag["outer"], tag["count"], tag["inner"], tag["log"]
    parallel = outer * count * inner * 4 >= PARALLEL_ELEMENTS

    def power(x: Any) -> Any:
        return approximations.exp(x, fma=True)

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
                    e.store(y, base + i, power(shifted(i, n)), n)
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
            reduction.reduce(lambda i, n: power(shifted(i, n)), lambda a, b: a + b, 0.0, scalar, 1)
            e.store(scalar, e.integer(1), e.b.log(e.load(scalar, e.integer(1))))
            with vector_loop(e, count, lanes) as run:
                run(lambda i, n: e.store(y, base + i, shifted(i, n) - e.splat(e.load(scalar, e.integer(1)), n), n))

    def columns(e: Any, x: Any, y: Any) -> None:
        lanes = lanes_of(target)
        blocks, rest = divmod(inner, _VECTORS * lanes)
        with e.loop(outer * blocks, parallel=parallel and outer * blocks > 1) as task:
            base = task // max(1, blocks) * (count * inner) + task % max(1, blocks) * (_VECTORS * lanes)
            _columns(e, x, y, base, tag, _VECTORS, lanes)
        with e.loop(outer if rest else 0) as number:
            base = number * (count * inner) + blocks * _VECTORS * lanes
            _columns(e, x, y, base, tag, rest // lanes, lanes)
            with e.loop(rest % lanes) as i:
                _columns(e, x, y, base + rest // lanes * lanes + i, tag, 1, 1)

    return template(function, rows if inner == 1 else columns)


def _columns(e: Any, x: Any, y: Any, base: Any, tag: dict[str, Any], vectors: int, lanes: int) -> None:
    """Softmax over an axis that is not the last one, of some vectors of columns: no element's power is taken twice."""
    count, inner, log = tag["count"], tag["inner"], tag["log"]
    if not vectors:
        return

    def over(rows: list[Any], write: Callable[[Any, Any], None]) -> None:
        with e.loop(count) as k:
            for v, row in enumerate(rows):
                write(row, base + k * inner + v * lanes)

    def greatest(top: Any, at: Any) -> None:
        e.store(top, 0, e.max(e.load(top, 0, lanes), e.load(x, at, lanes)), lanes)

    tops = accumulators(e, vectors, 1, lanes, _LOWEST)
    over(tops, greatest)
    totals = accumulators(e, vectors, 1, lanes)
    both = list(zip(tops, totals, strict=True))

    def add(pair: Any, at: Any) -> None:
        top, total = pair
        power = e.bind(approximations.exp(e.load(x, at, lanes) - e.load(top, 0, lanes), fma=True))
        e.store(total, 0, e.load(total, 0, lanes) + power, lanes)
        if not log:
            e.store(y, at, power, lanes)

    over(both, add)
    for total in totals:
        if log:
            with e.loop(lanes) as i:
                e.store(total, i, e.b.log(e.load(total, i)))
        else:
            one = e.const(1.0, "float32" if lanes == 1 else f"float32x{lanes}")
            e.store(total, 0, one / e.load(total, 0, lanes), lanes)

    def finish(pair: Any, at: Any) -> None:
        top, total = (e.load(row, 0, lanes) for row in pair)
        e.store(y, at, e.load(x, at, lanes) - top - total if log else e.load(y, at, lanes) * total, lanes)

    over(both, finish)
