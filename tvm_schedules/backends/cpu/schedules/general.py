"""Anything else: spatial blocks as in :mod:`injective`, reductions with parallel outer and contiguous inner axes."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from tvm_schedules import compat
from tvm_schedules.backends.cpu.schedules.injective import PARALLEL_ELEMENTS, arrange
from tvm_schedules.compat.blocks import inline, is_reduction, leaf_blocks

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["apply"]

_log = logging.getLogger(__name__)
_ROW = 1024  # elements of an accumulator row that stays in the first-level cache


def apply(function: Any, target: TargetSpec) -> Any:
    """Schedules any function; at worst the loops stay as they are."""
    for attempt in (_scheduled, _plain):
        try:
            return compat.raw_pointers(compat.lower_blocks(attempt(function), "main"))
        except Exception as error:
            if attempt is _plain:
                raise
            _log.warning("default schedule failed, loops stay as they are: %s", error)
    raise AssertionError("unreachable")


def _plain(function: Any) -> Any:
    return function


def _scheduled(function: Any) -> Any:
    from tvm import s_tir

    sch = s_tir.Schedule(function)
    inline(sch, leaf_blocks(sch))
    for block in leaf_blocks(sch):
        saved = sch.copy()
        try:
            (_reduce if is_reduction(sch, block) else arrange)(sch, block)
        except Exception as error:
            _log.info("a block keeps its loops: %s", error)
            sch = saved
    return sch.mod["main"]


def _reduce(sch: Any, block: Any) -> None:
    """Outer spatial axes in parallel; an innermost spatial axis of some length moves inside of the reduction."""
    loops = sch.get_loops(block)
    kinds = [int(var.iter_type) for var in sch.get(block).iter_vars]
    if len(kinds) != len(loops) or set(kinds) - {0, 2}:
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 0]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 2]
    extents = [int(sch.get(loop).extent) for loop in spatial]
    work = math.prod(extents) * math.prod(int(sch.get(loop).extent) for loop in reduced)
    if not spatial:
        return
    inner = spatial[-1] if 4 <= extents[-1] <= _ROW and len(spatial) > 1 else None
    outer = spatial[:-1] if inner is not None else spatial
    if inner is not None:
        sch.reorder(*outer, *reduced, inner)
        sch.decompose_reduction(block, reduced[0])
    if work >= PARALLEL_ELEMENTS and math.prod(extents[: len(outer)]) > 1:
        sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])
