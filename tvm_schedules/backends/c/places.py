"""Which buffers may take the memory of others that are read for the last time."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_schedules.backends.c.kernels.common.copying import filled
from tvm_schedules.backends.c.layout import Tight
from tvm_schedules.backends.c.site import Operator
from tvm_schedules.lowering.memory import Lives
from tvm_schedules.lowering.rules import repack
from tvm_schedules.lowering.steps import Buffer, Step

__all__ = ["copy_over", "residual_and_output"]


def residual_and_output(step: Step) -> tuple[Buffer, Buffer] | None:
    """What :func:`~tvm_schedules.lowering.memory.reuse_residuals` asks for.

    Kernels write in the order in which they read the residual, so it is enough that no pixel lies behind the place of
    the residual's.
    """
    if isinstance(step.spec, Operator):
        return (step.args[0], step.args[-1]) if step.spec.in_place else None
    epilogue = getattr(step.spec, "epilogue", None)
    if epilogue is None or epilogue.residual is None:
        return None
    residual, result = epilogue.residual, epilogue.out
    fits = residual.dtype == result.dtype and residual.plane >= result.plane and residual.origin >= result.origin
    fits = fits and residual.nbytes >= result.nbytes
    source, *_, beside, out = (arg for arg in step.args if not arg.name.endswith("/scratch"))
    return (beside, out) if fits and beside.root is not source.root else None


def copy_over(steps: Sequence[Step], lives: Lives) -> None:
    """Lets copies of planes into phases be written over the planes, which are read one after the other.

    Args:
        steps: In execution order.
        lives: Of :func:`~tvm_schedules.lowering.memory.lifetimes`, after outputs have got the memory of residuals.
    """
    for time, step in enumerate(steps):
        if step.kernel != repack.NAME:
            continue
        source, target, read, made = step.spec.source, step.spec.target, step.args[0], step.args[-1]
        if not (isinstance(source, Tight) and isinstance(target, Tight)) or source.dtype != target.dtype:
            continue
        life, other = lives.get(id(made)), lives.get(id(read.root))
        if life is None or other is None or read.start or life.buffer.place or other.buffer.place:
            continue
        if life.first == time == other.last:
            life.over, life.lead = other.buffer, _lead(source, target)


def _lead(source: Tight, target: Tight) -> int:
    """Bytes from the beginning of the target to that of the source, so that no channel is written over too early."""
    first, elements = filled(target)
    last = source.batch * source.channels - 1
    steps = (0, last * (target.phases * target.plane - source.phases * source.plane))
    return target.itemsize * max(0, first + elements - source.origin + max(steps))
