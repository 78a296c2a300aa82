"""ONNX model in, C out: lowers with tight planes, in place where a residual is read for the last time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from types import MappingProxyType
from typing import Any

from tvm_schedules.backends.c.kernels import dense_conv, global_pool, linear, pool, repack, sparse_conv
from tvm_schedules.backends.c.layout import Tight
from tvm_schedules.backends.c.program import Program
from tvm_schedules.backends.c.translate import translate
from tvm_schedules.common.dtypes import C_TYPES
from tvm_schedules.errors import UnsupportedOperatorError
from tvm_schedules.frontend.onnx_reader import load_model, read
from tvm_schedules.ir.graph import Node, Quant
from tvm_schedules.ir.plan import LayerInfo, Plan, TensorInfo
from tvm_schedules.lowering.base import Copier, Kernel, Lowering, by_name
from tvm_schedules.lowering.layouts import Layouts
from tvm_schedules.lowering.memory import assign_arena, lifetimes, reuse_residuals
from tvm_schedules.lowering.plan import make_plan
from tvm_schedules.lowering.steps import Buffer, Step
from tvm_schedules.targets.registry import TargetSpec

__all__ = ["CLowering", "Portable", "compile_portable"]


@dataclass
class Portable:
    """A network as C.

    Attributes:
        plan: What is known about it.
        program: Tables, descriptions and calls; buffers have their places.
    """

    plan: Plan
    program: Program


KERNELS: Sequence[Kernel] = (sparse_conv, dense_conv, linear, pool, global_pool)
"""In order of preference: the first whose ``lower`` takes a node has it."""

COPIERS: Sequence[Copier] = (repack,)
"""Copies into other layouts, which the lowering asks for."""


class CLowering(Lowering):
    """Lowers one graph with the kernels that exist in C."""

    kernels = KERNELS
    emitters = MappingProxyType(by_name([*KERNELS, *COPIERS]))
    fma = True

    def lay_out(self, planes: list[Node]) -> Layouts:
        """Planes that share the halo between them."""
        return Layouts(self.graph, planes, Tight)

    def code(self, kernel: str, spec: Any) -> Callable[[], Any]:
        """What makes the code of a step: here the translation, which needs the step's numbers and its place too."""
        emit = self.emitters[kernel]
        return lambda: emit

    def lower_fallback(self, nodes: list[Node]) -> None:
        """There is C for the kernels only.

        Raises:
            UnsupportedOperatorError: Always.
        """
        node = nodes[0]
        reads = f"reads {node.inputs[0]!r}" if node.inputs else "has no input"
        raise UnsupportedOperatorError(
            f"target c has no code for the operator {node.op} of node {node.name!r}, which {reads}. It has "
            "convolutions, linear layers, Add of two images, Relu, Clip, batch normalization, pooling, QuantizeLinear, "
            "DequantizeLinear, Reshape and Flatten. Replace the operator in the network, end the network before it and "
            "compute the rest in your program, or choose a target with TVM, such as 'arm'"
        )


def compile_portable(model: Any, target: TargetSpec, progress: Callable[[str], None] | None = None) -> Portable:
    """Lowers a network to C.

    Args:
        model: ``onnx.ModelProto``, path or bytes, with fixed shapes.
        target: The target ``c``.
        progress: Called with a line of text at every stage.

    Raises:
        ModelError: The model cannot be read or has an operator without C code.
    """
    from tvm_schedules.passes import prepare

    say = progress or (lambda text: None)
    say("reading the graph")
    graph = prepare(read(load_model(model)))
    for name in (*graph.inputs, *graph.outputs):
        if graph.values[name].dtype not in C_TYPES:
            raise UnsupportedOperatorError(
                f"input or output {name!r} is {graph.values[name].dtype}; target c has {', '.join(C_TYPES)}"
            )
    say("choosing kernels and layouts")
    lowering = CLowering(graph, target)
    lowering.run()
    say(f"writing C for {len(lowering.steps)} steps")
    program = translate(lowering.steps, lowering.constants, [graph.values[name].dtype for name in graph.inputs])
    lives = lifetimes(lowering.steps)
    reuse_residuals(lowering.steps, lives, _residual_and_output)
    arena = assign_arena(lives, 0)
    return Portable(_with_tables(make_plan(graph, lowering, arena), program), program)


def _with_tables(plan: Plan, program: Program) -> Plan:
    """A plan that counts what is written as C tables, and says which ends have an 8-bit form."""

    def layer(made: LayerInfo) -> LayerInfo:
        tables = [program.arrays.get(f"{kind}_{places[made.name]}") for kind in ("weight", "level")]
        stored = sum(table.nbytes for table in tables if table is not None)
        return replace(made, bytes=stored, bits=8 * stored / max(1, prod(made.shape)))

    def ends(side: str, entries: tuple[TensorInfo, ...]) -> tuple[TensorInfo, ...]:
        quants = [program.quants.get((side, index)) for index in range(len(entries))]
        return tuple(
            entry if quant is None else replace(entry, quant=Quant(*quant))
            for entry, quant in zip(entries, quants, strict=True)
        )

    places = {step.name: index for index, step in enumerate(plan.steps)}
    return replace(
        plan,
        inputs=ends("input", plan.inputs),
        outputs=ends("output", plan.outputs),
        layers=tuple(layer(made) for made in plan.layers),
        constants=(),
        constant_bytes=program.table_bytes,
    )


def _residual_and_output(step: Step) -> tuple[Buffer, Buffer] | None:
    """What :func:`~tvm_schedules.lowering.memory.reuse_residuals` asks for.

    Kernels write in the order in which they read the residual, so it is enough that no pixel lies behind the place of
    the residual's.
    """
    epilogue = getattr(step.spec, "epilogue", None)
    if epilogue is None or epilogue.residual is None:
        return None
    residual, result = epilogue.residual, epilogue.out
    fits = residual.dtype == result.dtype and residual.plane >= result.plane and residual.origin >= result.origin
    source, *_, beside, out = (arg for arg in step.args if not arg.name.endswith("/scratch"))
    return (beside, out) if fits and beside.root is not source.root else None
