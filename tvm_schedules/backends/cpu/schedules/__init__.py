"""CPU schedules for the operators that have no kernel of their own.

Every rule is one file with ``apply(function, target)``: it returns a raw-pointer PrimFunc, or None when the function
is not its own. Two kinds: templates (softmax, reductions, matrix products, convolutions, pooling) write loops with
explicit vectors for a tagged function, the others arrange the loops of any PrimFunc and leave vectorizing its
innermost one to LLVM.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm_schedules.fallback.program import FallbackProgram
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["rules", "schedule", "schedule_program"]

_log = logging.getLogger(__name__)

Rule = Callable[[Any, "TargetSpec"], Any]


def rules() -> list[Rule]:
    """All rules, the most special ones first; the last one takes everything."""
    from tvm_schedules.backends.cpu.schedules import (
        concat,
        convolution,
        general,
        injective,
        layer_norm,
        matmul,
        pool,
        reduce,
        scan,
        scatter,
        softmax,
        transpose,
    )

    special = [softmax, layer_norm, reduce, matmul, convolution, pool, concat, scan, scatter, transpose]
    return [module.apply for module in (*special, injective, general)]


def schedule(function: Any, target: TargetSpec) -> Any:
    """Schedules one PrimFunc of blocks into a private raw-pointer one.

    A rule that fails is skipped (and logged): the next one is tried, and the general one always succeeds.
    """
    *special, general = rules()
    for rule in special:
        try:
            result = rule(function, target)
        except Exception as error:
            _log.warning("schedule rule %s failed, the next one is tried: %s", rule.__module__, error)
            continue
        if result is not None:
            return result
    return general(function, target)


def schedule_program(program: FallbackProgram, functions: dict[str, Any], target: TargetSpec) -> None:
    """Schedules all functions of a program.

    Args:
        program: Calls of ``functions``; gets the scheduled ones.
        functions: PrimFuncs of blocks, by their names.
        target: Machine to schedule for.
    """
    for name, function in functions.items():
        program.functions[name] = schedule(function, target)
