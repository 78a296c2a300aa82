"""Layer normalization of trailing axes (Layer Normalization, 2016, eq. 3): parallel rows, vectors along a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.schedules.injective import PARALLEL_ELEMENTS
from tvm_schedules.backends.cpu.schedules.writer import Rows, lanes_of, less_first, scratch, template, vector_loop
from tvm_schedules.fallback.tags import tag_of

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["apply"]


def apply(function: Any, target: TargetSpec) -> Any:
    """Template of a tagged layer normalization; None for other functions."""
    tag = tag_of(function)
    if tag is None or tag["kind"] != "layer_norm":
        return None
    outer, count = tag["outer"], tag["count"]

    def body(e: Any, x: Any, gamma: Any, beta: Any, y: Any) -> None:
        lanes = lanes_of(target)
        with e.loop(outer, parallel=outer > 1 and outer * count >= PARALLEL_ELEMENTS) as row:
            base = row * count
            scalar = scratch(e, 2)
            reduction = Rows(e, count, lanes)
            reduction.reduce(lambda i, n: e.load(x, base + i, n), lambda a, b: a + b, 0.0, scalar, 0)
            e.store(scalar, e.integer(0), e.load(scalar, e.integer(0)) * e.const(1.0 / count, "float32"))
            centered = less_first(e, x, base, scalar)

            reduction.reduce(lambda i, n: centered(i, n) * centered(i, n), lambda a, b: a + b, 0.0, scalar, 1)
            variance = e.load(scalar, e.integer(1)) * e.const(1.0 / count, "float32")
            root = e.b.sqrt(variance + e.const(tag["epsilon"], "float32"))
            e.store(scalar, e.integer(1), e.const(1.0, "float32") / root)

            def write(i: Any, n: int) -> None:
                value = centered(i, n) * e.splat(e.load(scalar, e.integer(1)), n)
                if tag["scale"]:
                    value = value * e.load(gamma, i, n)
                if tag["center"]:
                    value = value + e.load(beta, i, n)
                e.store(y, base + i, value, n)

            with vector_loop(e, count, lanes) as run:
                run(write)

    return template(function, body)
