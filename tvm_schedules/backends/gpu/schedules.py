"""Operators without a kernel: TVM's own functions, one launch for each of their loop nests.

What can be inlined is; then every nest becomes a function of its own whose spatial loops are spread over threads and
whose reductions run in one thread. That is simple and not fast: such operators are the small part of a network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm_schedules.compat import gpu as compat
from tvm_schedules.fallback.program import FallbackCall, FallbackProgram

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["spread"]


def spread(program: FallbackProgram, functions: dict[str, Any], target: TargetSpec) -> None:
    """Replaces the calls of a program by calls of functions with thread bindings.

    Args:
        program: Calls of ``functions``; gets the new functions, calls, and the buffers between them.
        functions: PrimFuncs of blocks, unscheduled.
        target: The graphics processor; the bindings are the same for all of them.
    """
    nests = {name: compat.loop_nests(function) for name, function in functions.items()}
    calls = []
    for number, call in enumerate(program.calls):
        parameters, pieces = nests[call.function]
        names = dict(zip(parameters, call.args, strict=True))
        for index, piece in enumerate(pieces):
            function = f"{call.function}_{index}"
            program.functions[function] = piece
            for argument, shape in zip(piece.arguments, piece.shapes, strict=True):
                if argument.name not in names:
                    names[argument.name] = f"{call.function}_{number}_{argument.name}"
                    program.temporaries[names[argument.name]] = (shape, argument.dtype)
            calls.append(FallbackCall(function, [names[argument.name] for argument in piece.arguments]))
    program.calls = calls
