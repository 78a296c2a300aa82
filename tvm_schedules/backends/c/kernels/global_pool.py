"""The average of a plane as C (``source/global_pool_planes.c``).

Bound by additions.
"""

from __future__ import annotations

from math import prod

from tvm_schedules.backends.c.kernels.common.translation import Translation, type_words
from tvm_schedules.backends.c.program import SHORT
from tvm_schedules.lowering.rules.global_pool import NAME, Spec, lower
from tvm_schedules.lowering.steps import Step

__all__ = ["NAME", "Spec", "emit", "lower"]


def emit(t: Translation, index: int, step: Step) -> None:
    """The average of a plane (``source/global_pool_planes.c``)."""
    spec, x = step.spec, step.spec.x
    scale, bias, low, high = t.stored(step.args[2])[0]["params"]
    steps = x.steps()
    fields = {"scale": scale, "bias": bias, "low": low, "high": high}
    fields |= {"planes": x.batch * x.channels, "plane": x.plane, "origin": x.origin}
    fields |= dict(zip(("depth", "height", "width"), x.dims, strict=True))
    fields |= {"slice": steps[0], "row": steps[1], "output_float": spec.out == "float32"}
    run, between = x.run(x.dims), (x.run(x.dims) - prod(x.dims)) * int(x.fill)
    if x.dtype == "uint8" or not x.fill:  # floats add up to the same numbers only where the halo adds nothing
        fields |= {"run": run, "between": between}
    words = {"SUM": "int32_t" if x.dtype == "uint8" else "float"}
    t.program.need("global_pool.c")
    t.program.need("global_pool_planes.c", **type_words(x.dtype), **words)
    t.call(index, step, "global_pool", SHORT[x.dtype], fields, [step.args[0], step.args[3]])
