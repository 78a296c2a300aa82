"""Elementwise and copying functions: everything inlined, one parallel outer loop, one contiguous inner loop for LLVM.

Explicit vector loops over a fused index make TVM compute its quotients and remainders lane by lane (13 times slower,
measured); a plain inner loop of unit stride is vectorized by LLVM, tails included.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from tvm_schedules import compat
from tvm_schedules.compat.blocks import inline, is_reduction, leaf_blocks

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["PARALLEL_ELEMENTS", "apply", "arrange"]

PARALLEL_ELEMENTS = 32768
"""Smaller loops stay serial: waking TVM's threads costs about as much as this many additions."""
_TASKS = 32
_SHORTEST = 64
"""Elements of an inner loop that are worth a loop of their own."""


def apply(function: Any, target: TargetSpec) -> Any:
    """Schedules functions without reductions; None for others."""
    from tvm import s_tir

    sch = s_tir.Schedule(function)
    blocks = leaf_blocks(sch)
    if any(is_reduction(sch, block) for block in blocks):
        return None
    inline(sch, blocks)
    for block in leaf_blocks(sch):
        arrange(sch, block)
    return compat.raw_pointers(compat.lower_blocks(sch.mod["main"], "main"))


def fusible(sch: Any, block: Any) -> int:
    """How many trailing axes of a spatial block are one contiguous run in every buffer that is touched.

    1 when only the innermost axis is; runs are found from the access regions, a buffer that no axis of the run
    appears in (a broadcast) does not hinder.
    """
    statement = sch.get(block)
    names = [str(var.var.name) for var in statement.iter_vars]
    extents = [int(var.dom.extent) for var in statement.iter_vars]
    regions = [*statement.reads, *statement.writes]
    count = 1
    while count < len(names):
        inner = names[len(names) - count :]
        outer = names[len(names) - count - 1]
        if not all(_contiguous(region, outer, inner, extents[len(names) - count :]) for region in regions):
            break
        count += 1
    return count


def _contiguous(region: Any, outer: str, inner: list[str], extents: list[int]) -> bool:
    indices = [str(r.min) for r in region.region]
    shape = [int(d) for d in region.source.shape]
    words = [set(re.findall(r"\w+", index)) for index in indices]
    used = {w for ws in words for w in ws}
    if outer not in used and not used & set(inner):
        return True
    tail = [outer, *inner]
    return indices[-len(tail) :] == tail and shape[-len(inner) :] == extents


def _peeled(extents: list[int], run: int) -> int:
    """How many axes one loop has that threads do not share.

    Where all axes are one run, threads share the first of them. A piece of the whole run would begin in the middle of
    an axis, and TVM then computes every index by quotients and remainders.
    """
    if run < len(extents):
        return run
    for axis in range(1, run):
        if math.prod(extents[:axis]) >= 4:
            return run - axis if math.prod(extents[axis:]) >= _SHORTEST else run
    return run


def arrange(sch: Any, block: Any) -> None:
    """Fuses, splits and parallelizes the loops of one spatial block."""
    loops = sch.get_loops(block)
    if not loops:
        return
    extents = [int(sch.get(loop).extent) for loop in loops]
    total = math.prod(extents)
    run = fusible(sch, block) if len(loops) == len(sch.get(block).iter_vars) else 1
    if total >= PARALLEL_ELEMENTS:
        run = _peeled(extents, run)
    inner = sch.fuse(*loops[len(loops) - run :]) if run > 1 else loops[-1]
    outer = loops[: len(loops) - run]
    if total < PARALLEL_ELEMENTS:
        return
    if outer and math.prod(extents[: len(outer)]) >= 4:
        sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])
        return
    tasks = max(d for d in range(1, _TASKS + 1) if math.prod(extents[len(outer) :]) % d == 0)
    if tasks == 1:
        tasks = _TASKS
    chunk, _ = sch.split(inner, [tasks, None])
    sch.parallel(sch.fuse(*outer, chunk) if outer else chunk)
