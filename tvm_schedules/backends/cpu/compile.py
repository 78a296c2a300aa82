"""A fused graph in, one compiled function out: ``tern_main(inputs..., outputs..., arena, constants, begin, end)``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from tvm_schedules.backends import toolchain as linking
from tvm_schedules.backends.base import Say, quiet
from tvm_schedules.ir.graph import Graph
from tvm_schedules.ir.plan import Plan
from tvm_schedules.lowering.memory import assign_arena, lifetimes
from tvm_schedules.lowering.plan import make_plan
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.lowering.steps import Step
from tvm_schedules.targets.registry import TargetSpec

__all__ = ["ENTRY", "CpuCompiled", "compile_graph", "grain"]

ENTRY = "tern_main"
SHARE = 500_000
"""Work of steps in a row from which threads that do not sleep share them: there is half a microsecond to gain then.

Work is a step's ``work`` or, without, its multiply-adds (or additions of taps) with weights other than zero.
"""

WAKE = 2_000_000
"""Work of a network from which threads that sleep are woken for it: that takes up to 50 microseconds."""

GRAIN = 200_000
"""Work that a thread takes at once, some microseconds: to take jobs is to wait for memory that others look at."""


@dataclass
class CpuCompiled:
    """A compiled network.

    Attributes:
        module: TVM runtime module that exports :data:`ENTRY`.
        plan: What is needed to run it.
        arrays: What is stored beside it; :func:`tvm_schedules.packing.registry.expand` makes the constants of it.
        wakes: Whether it takes, or may take, long enough to wake threads for it.
    """

    module: Any
    plan: Plan
    arrays: dict[str, np.ndarray]
    wakes: bool = True


def compile_graph(
    graph: Graph,
    target: TargetSpec,
    say: Say = quiet,
    configs: Mapping[str, ScheduleConfig] | None = None,
    own_threads: bool = False,
) -> CpuCompiled:
    """Compiles a network.

    Args:
        graph: The fused graph.
        target: What for.
        say: For lines of progress.
        configs: Schedule configurations by the names of nodes; what they leave open is the cost model's.
        own_threads: Whether the module is for :func:`tvm_schedules.backends.toolchain.export_library`, which
            gives it threads of its own; with TVM's it runs without linking.

    Raises:
        ModelError: The network has an operator that cannot be lowered.
    """
    from tvm_schedules import compat
    from tvm_schedules.backends.cpu.lower import CpuLowering

    say("choosing kernels and layouts")
    lowering = CpuLowering(graph, target, configs)
    lowering.run()
    arena = assign_arena(lifetimes(lowering.steps), lowering.largest_read)
    say(f"generating code for {len(lowering.steps)} steps")
    functions: dict[Any, tuple[Any, Any]] = {}
    for step in lowering.steps:
        key = (step.kernel, step.spec)
        if key not in functions:
            functions[key] = (compat.global_var(f"{step.kernel}_{len(functions)}"), step.make())

    def made(step: Step) -> Any:
        return functions[(step.kernel, step.spec)][1]

    work = _work(lowering.steps)
    known = all(compat.has_jobs(function) for _, function in functions.values())  # of other functions it is not
    wakes = work >= WAKE or not known
    least = SHARE if linking.own_threads() and (work >= WAKE or known) else WAKE
    plan = make_plan(graph, lowering, arena)
    sizes = {"arena": arena, "constants": plan.constant_bytes}
    signature = [graph.values[n] for n in (*graph.inputs, *graph.outputs)]

    def body(e: Any, *arguments: Any) -> None:
        begin, end = arguments[-2:]
        groups = {"input": 0, "output": len(graph.inputs)}

        def call(index: int, step: Step, loop: str) -> None:
            pointers = []
            for buffer in step.args:
                place = buffer.root.place
                assert place is not None
                if place.kind in groups:
                    pointers.append(compat.pointer(arguments[groups[place.kind] + place.offset]))
                else:
                    pointers.append(compat.pointer(arguments[-4 if place.kind == "arena" else -3], place.offset))
            with e.when((begin <= index) & (e.integer(index) < end)):
                compat.call_private(*functions[(step.kernel, step.spec)], pointers, loop, grain(step))

        # The threads of the pool are woken once for all of our own kernels in a row; other functions wake them as
        # they need them.
        for own, run in groupby(enumerate(lowering.steps), lambda item: compat.has_jobs(made(item[1]))):
            steps = list(run)
            enough = _work(step for _, step in steps) >= least
            shared = own and enough and any(compat.shares_jobs(made(step)) for _, step in steps)
            with compat.threads(own_threads) if shared else nullcontext("serial") as loop:
                for index, step in steps:
                    call(index, step, loop)

    buffers = [(f"argument_{i}", v.shape, v.dtype) for i, v in enumerate(signature)]
    buffers += [(name, (size,), "uint8") for name, size in sizes.items()]
    main = compat.main_function(ENTRY, buffers, ["begin", "end"], body)
    say("compiling with LLVM")
    module = compat.build_module({str(i): pair for i, pair in enumerate(functions.values())}, main, target.tvm)
    return CpuCompiled(module, plan, lowering.constants.arrays, wakes)


def grain(step: Step) -> float:
    """Part of a step's jobs that a thread takes at once, from 0 to 1."""
    return min(1.0, GRAIN / max(1, _work([step])))


def _work(steps: Iterable[Step]) -> int:
    return sum(step.info.get("work", step.info.get("nonzero_macs", 0)) for step in steps)
