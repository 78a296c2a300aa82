"""A fused graph in, C out: lowered with tight planes, in place where a residual is read for the last time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from tvm_schedules.backends.base import Say, quiet
from tvm_schedules.backends.c.kernels.common.translation import Translation
from tvm_schedules.backends.c.lower import CLowering
from tvm_schedules.backends.c.parts import PRICE, Part, in_parts
from tvm_schedules.backends.c.places import copy_over, residual_and_output
from tvm_schedules.backends.c.program import Program
from tvm_schedules.backends.c.translate import translate
from tvm_schedules.common.dtypes import C_TYPES
from tvm_schedules.errors import UnsupportedOperatorError
from tvm_schedules.ir.graph import Graph, Quant
from tvm_schedules.ir.plan import LayerInfo, Plan, TensorInfo
from tvm_schedules.lowering.memory import Life, Lives, assign_arena, lifetimes, place_beside, reuse_residuals
from tvm_schedules.lowering.plan import make_plan
from tvm_schedules.lowering.steps import Buffer, Step
from tvm_schedules.targets.registry import TargetSpec

__all__ = ["CProgram", "compile_graph"]

ALIGN = 8
"""Bytes that places in the arena are multiples of, as the arena's own: kernels read no more than words aligned."""


@dataclass
class CProgram:
    """A network as C.

    Attributes:
        plan: What is known about it.
        program: Tables, descriptions and calls; buffers have their places.
        steps: What the calls were made of.
    """

    plan: Plan
    program: Program
    steps: Sequence[Step] = ()


def compile_graph(graph: Graph, target: TargetSpec, say: Say = quiet) -> CProgram:
    """Lowers a network to C.

    Args:
        graph: The fused graph.
        target: The target ``c``.
        say: For lines of progress.

    Raises:
        ModelError: The network has an operator without C code.
    """
    for name in (*graph.inputs, *graph.outputs):
        if graph.values[name].dtype not in C_TYPES:
            raise UnsupportedOperatorError(
                f"input or output {name!r} is {graph.values[name].dtype}; target c has {', '.join(C_TYPES)}"
            )
    say("choosing kernels and layouts")
    lowering = _lowered(graph, target)
    say(f"writing C for {len(lowering.steps)} steps")
    program = translate(lowering.steps, lowering.constants, [graph.values[name].dtype for name in graph.inputs])
    lives = lifetimes(lowering.steps, ALIGN)
    reuse_residuals(lowering.steps, lives, residual_and_output)
    copy_over(lowering.steps, lives)
    plan = make_plan(graph, lowering, assign_arena(lives, 0))
    _place_inputs(plan, program, lives)
    return CProgram(_with_tables(plan, program, lowering.steps), program, lowering.steps)


def _lowered(graph: Graph, target: TargetSpec) -> CLowering:
    """The steps in parts; kernels write phases where that takes no more memory than copies of what they write."""
    made = [_in_parts(CLowering(graph, target, phases=True))]
    if made[0].phases:
        made.append(_in_parts(CLowering(graph, target)))
    return min(made, key=lambda lowering: _arena(lowering.steps) + PRICE * len(lowering.steps))


def _in_parts(lowering: CLowering) -> CLowering:
    """Lowers a graph, and divides what it saves memory to divide."""
    lowering.run()
    constants = Translation(lowering.constants)

    def groups(step: Step) -> int:
        stored, params = constants.stored(step.args[1])
        # The scale of a row holds its level only where all rows have equal ones, which a part does not know.
        whole = "negative" in stored and params["shape"][0] == 1
        return 0 if whole else int(params["window"]["groups"])

    lowering.steps = in_parts(lowering.steps, groups, _arena)
    return lowering


def _place_inputs(plan: Plan, program: Program, lives: Lives) -> None:
    """Finds places in the arena for inputs in 8 bits, so that a caller needs no memory for them elsewhere."""
    program.arena_with_inputs = plan.arena_bytes or 0
    inputs = [life for life in lives.values() if life.buffer.place and life.buffer.place.kind == "input"]
    for life in inputs:
        assert life.buffer.place is not None
        index = life.buffer.place.offset
        entry = plan.inputs[index]
        if entry.dtype != "uint8" and ("input", index) not in program.quants:
            continue
        own = Life(Buffer(entry.name, prod(entry.shape)), 0, life.last, ALIGN)
        offset = place_beside(own, lives)
        lives[id(own.buffer)] = own
        program.input_offsets[index] = offset
        program.arena_with_inputs = max(program.arena_with_inputs, offset + own.nbytes)


def _arena(steps: list[Step]) -> int:
    """What the arena for steps would take; nothing is given a place."""
    lives = lifetimes(steps, ALIGN)
    free = [buffer for step in steps for buffer in step.args if buffer.alias is None]
    unplaced = [life.buffer for life in lives.values() if life.buffer.place is None]
    reuse_residuals(steps, lives, residual_and_output)
    copy_over(steps, lives)
    size = assign_arena(lives, 0)
    for buffer in free:
        buffer.alias = None
    for buffer in unplaced:
        buffer.place = None
    return size


def _with_tables(plan: Plan, program: Program, steps: list[Step]) -> Plan:
    """A plan that counts what is written as C tables, and says which ends have an 8-bit form."""

    def layer(made: LayerInfo) -> LayerInfo:
        if made.name not in places:  # a matrix of a recurrent layer, which has said what it takes
            return made
        tables = [program.arrays.get(f"{kind}_{index}") for kind in ("weight", "level") for index in places[made.name]]
        stored = sum(table.nbytes for table in tables if table is not None)
        return replace(made, bytes=stored, bits=8 * stored / max(1, prod(made.shape)))

    def ends(side: str, entries: tuple[TensorInfo, ...]) -> tuple[TensorInfo, ...]:
        quants = [program.quants.get((side, index)) for index in range(len(entries))]
        return tuple(
            entry if quant is None else replace(entry, quant=Quant(*quant))
            for entry, quant in zip(entries, quants, strict=True)
        )

    places: dict[str, list[int]] = {}
    for index, step in enumerate(steps):
        places.setdefault(step.of if isinstance(step, Part) else step.name, []).append(index)
    return replace(
        plan,
        inputs=ends("input", plan.inputs),
        outputs=ends("output", plan.outputs),
        layers=tuple(layer(made) for made in plan.layers),
        constants=(),
        constant_bytes=program.table_bytes,
    )
