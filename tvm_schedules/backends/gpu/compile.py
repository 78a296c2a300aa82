"""Compiles a fused graph to the source of its kernels and the list of their launches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_schedules.backends.base import Say, quiet
from tvm_schedules.compat import gpu as compat
from tvm_schedules.errors import ModelError, TargetError
from tvm_schedules.ir.graph import Graph
from tvm_schedules.ir.plan import Argument, DevicePlan, KernelInfo, Launch, Plan
from tvm_schedules.lowering.memory import assign_slots, lifetimes
from tvm_schedules.lowering.plan import make_plan
from tvm_schedules.lowering.steps import Buffer
from tvm_schedules.targets.registry import TargetSpec

__all__ = ["GpuCompiled", "compile_graph", "generate"]

MOST_GROUPS = 65535
"""Groups of threads in y and in z at most, by CUDA's limits."""


@dataclass
class GpuCompiled:
    """A network for a graphics processor.

    Attributes:
        source: All kernels, ready for the language's compiler.
        plan: What is needed to run it.
        arrays: Stored weights; :func:`tvm_schedules.packing.registry.expand` makes the constants of them.
    """

    source: str
    plan: Plan
    arrays: dict[str, np.ndarray]


def compile_graph(graph: Graph, target: TargetSpec, say: Say = quiet) -> GpuCompiled:
    """Compiles a network to source.

    Args:
        graph: The fused graph.
        target: A target whose kind is opencl, cuda, metal or webgpu.
        say: For lines of progress.

    Raises:
        ModelError: The network has an operator that cannot be lowered.
        TargetError: The language has no type that a kernel needs.
    """
    from tvm_schedules.backends.gpu.lower import GpuLowering

    say("choosing kernels and layouts")
    lowering = GpuLowering(graph, target)
    lowering.run()
    say(f"generating {target.tvm['kind']} code for {len(lowering.steps)} steps")
    index: dict[Any, int] = {}
    made: dict[str, compat.Kernel | compat.Scheduled] = {}
    for step in lowering.steps:
        key = (step.kernel, step.spec)
        if key not in index:
            index[key] = len(made)
            made[f"{step.kernel}_{len(made)}"] = step.make()
    source, kernels = generate(made, target)
    slots = assign_slots(lifetimes(lowering.steps))
    launches = tuple(
        Launch(index[step.kernel, step.spec], tuple(_argument(buffer) for buffer in step.args))
        for step in lowering.steps
    )
    device = DevicePlan(tuple(slots), lowering.largest_read, kernels, launches)
    plan = make_plan(graph, lowering, device=device)
    return GpuCompiled(source, plan, lowering.constants.arrays)


def generate(
    made: Mapping[str, compat.Kernel | compat.Scheduled], target: TargetSpec
) -> tuple[str, tuple[KernelInfo, ...]]:
    """Source of kernels, and for each of them what is needed to start it.

    Returns:
        The source, and an entry for each kernel in the order of ``made``. The code generator orders arguments in its
        own way, and leaves out those that are not used.

    Raises:
        TargetError: The language has no type that a kernel needs.
        ModelError: A layer has more output channels or images than the grid can count.
    """
    from tvm_schedules.backends.gpu.preamble import complete

    kind = str(target.tvm["kind"])
    flat = kind == "webgpu"
    functions = {name: compat.prim_func(name, kernel, flat) for name, kernel in made.items()}
    source = complete(compat.generate(functions, target.tvm), kind)
    entries = []
    for name, kernel in made.items():
        x, y, z = kernel.grid
        declared = [argument.name for argument in kernel.arguments]
        order = [declared.index(argument) for argument in compat.signature(source, f"{name}_kernel")]
        grid = (x, y * z, 1) if flat else (x, y, z)
        if max(grid[1:]) > MOST_GROUPS:
            raise ModelError(
                f"kernel {name} needs {list(grid)} groups of threads; {MOST_GROUPS} are possible in y and in z"
            )
        entries.append(KernelInfo(f"{name}_kernel", grid, kernel.threads, tuple(order)))
        if flat and any(kernel.arguments[i].dtype == "uint8" for i in order):
            raise TargetError(
                f"kernel {name} of target 'webgpu' reads or writes 8-bit numbers, which WGSL cannot store; "
                "export the network with float32 activations, or for another target"
            )
    return source, tuple(entries)


def _argument(buffer: Buffer) -> Argument:
    place = buffer.root.place
    assert place is not None
    return Argument(place.kind, place.offset, buffer.root.nbytes if place.kind == "constant" else 0)
