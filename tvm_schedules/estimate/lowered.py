"""A network lowered for a target, without code: its steps, and the bytes that follow from them exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from tvm_schedules.common.files import temporary_folder
from tvm_schedules.estimate.features import CALL, call_features, features, group
from tvm_schedules.ir.graph import Graph
from tvm_schedules.ir.plan import Plan
from tvm_schedules.lowering.steps import Step
from tvm_schedules.targets.registry import TargetSpec

__all__ = ["Lowered", "lower"]


@dataclass(frozen=True)
class Lowered:
    """A network that is lowered and not compiled.

    Attributes:
        steps: The kernel calls.
        plan: The plan.
        arrays: What an artifact stores; empty for C.
        tables: Bytes of the constant tables of C, by kind of core, and at most for ``""``; empty for others.
        functions: Of C, what every step calls; empty for others.
    """

    steps: Sequence[Step]
    plan: Plan
    arrays: Mapping[str, np.ndarray]
    tables: Mapping[str, int] = field(default_factory=dict)
    functions: Sequence[str] = ()

    def named(self) -> list[tuple[Step, str]]:
        """Every step, and the function of C that it calls, "" for others."""
        return list(zip(self.steps, self.functions or [""] * len(self.steps), strict=True))

    def counted(self) -> list[tuple[str, tuple[float, ...]]]:
        """Group and numbers of every step, and at last of the call itself."""
        made = [(group(*one), tuple(features(*one))) for one in self.named()]
        ends = (self.plan.inputs, self.plan.outputs)
        inputs, outputs = (sum(prod(one.shape) * np.dtype(one.dtype).itemsize for one in side) for side in ends)
        return [*made, (CALL, tuple(call_features(self.steps, self.plan.arena_bytes or 0, inputs, outputs)))]

    def kernels(self) -> dict[str, int]:
        """How many different kernels of each group there are: what the size of the code depends on.

        Of C, each function that is called once, and the descriptions of all calls.
        """
        if self.functions:
            return {**dict.fromkeys(self.functions, 1), "descriptions": len(self.functions)}
        kinds = {(group(*one), (one[0].kernel, one[0].spec)) for one in self.named()}
        return dict(Counter(key for key, _ in kinds))

    def weights_bytes(self) -> int:
        """Bytes of the file of weights, by writing it."""
        from tvm_schedules.artifact import store, weights

        with temporary_folder("estimate") as folder:
            weights.write(folder / store.WEIGHTS, self.arrays, self.plan.constants)
            return (folder / store.WEIGHTS).stat().st_size


def lower(graph: Graph, spec: TargetSpec) -> Lowered:
    """Chooses kernels, layouts and places in memory, as a build does before it makes code.

    Args:
        graph: Of :func:`tvm_schedules.pipeline.read_graph`; it is not changed.
        spec: A CPU, or ``c``.

    Raises:
        ModelError: The network has an operator that cannot be lowered.
    """
    if spec.tvm["kind"] == "c":
        from tvm_schedules.backends.c.compile import compile_graph
        from tvm_schedules.backends.c.program import CORES

        made = compile_graph(graph, spec)
        functions = [call.function for call in made.program.calls]
        tables = {"": made.program.table_bytes, **{core: made.program.tables_of(core) for core in CORES}}
        return Lowered(made.steps, made.plan, {}, tables, functions)
    from tvm_schedules.backends.cpu.lower import CpuLowering
    from tvm_schedules.lowering.memory import assign_arena, lifetimes
    from tvm_schedules.lowering.plan import make_plan

    lowering = CpuLowering(graph, spec)
    lowering.run()
    arena = assign_arena(lifetimes(lowering.steps), lowering.largest_read)
    return Lowered(lowering.steps, make_plan(graph, lowering, arena), lowering.constants.arrays)
