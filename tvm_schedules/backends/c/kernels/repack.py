"""Copies into another layout or type as C (``source/repack_from_to.c``).

Bound by reading and writing memory.
"""

from __future__ import annotations

from tvm_schedules.backends.c.kernels.common.copying import copy_fields
from tvm_schedules.backends.c.kernels.common.translation import Translation
from tvm_schedules.lowering.rules.repack import NAME, Spec
from tvm_schedules.lowering.steps import Step

__all__ = ["NAME", "Spec", "emit"]


def emit(t: Translation, index: int, step: Step) -> None:
    """A copy into another layout or type (``source/repack_from_to.c``)."""
    source, target = step.spec.source, step.spec.target
    params = t.stored(step.args[1])[0]["params"]
    fields = copy_fields(source, target, params)
    function = t.need_copy(source.dtype, target.dtype)
    t.call(index, step, "repack", function, fields, [step.args[0], step.args[2]])
    if source.dtype != target.dtype:
        t.program.calls[-1].quant = (float(params[0]), int(params[1]))
