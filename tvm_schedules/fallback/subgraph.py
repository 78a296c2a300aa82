"""Subgraphs of operators that no kernel takes: each goes to :mod:`tvm_schedules.fallback.program` as an ONNX model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.ir.graph import Node
from tvm_schedules.lowering.steps import Buffer, Step

if TYPE_CHECKING:
    from tvm_schedules.fallback.program import Schedule
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "lower_subgraph"]

NAME = "fallback"
"""What artifacts call the kernel of such a step; older ones say ``foreign``."""


def lower_subgraph(lowering: Lowering, nodes: list[Node], schedule: Schedule) -> None:
    """Appends the steps of operators without a kernel.

    Args:
        lowering: Gets the steps, their constants and temporaries, and an entry for every weight that they read.
        nodes: They follow one another in execution order.
        schedule: The back end's schedules.

    Raises:
        UnsupportedOperatorError: One of the operators cannot be lowered.
    """
    from tvm_schedules.fallback.program import lower_fallback

    graph = lowering.graph
    for node in nodes:
        for name in node.inputs:
            if name in graph.weights:
                reason = f"no kernel of ours for {node.op}: dense, in float"
                lowering.report(node, graph.weights[name], NAME, reason)
    made = {name for node in nodes for name in node.outputs if name}
    later = {name for node in graph.nodes if not any(node is n for n in nodes) for name in node.inputs} | set(
        graph.outputs
    )
    inputs: list[str] = []
    constants: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(name for node in nodes for name in node.inputs if name):
        if name in graph.constants:
            constants[name] = graph.constants[name]
        elif name in graph.weights:
            constants[name] = graph.weights[name].dequantize()
        elif name not in made:
            inputs.append(name)
    outputs = [name for name in made if name in later and name in graph.values]
    prefix = f"{NAME}{next(lowering.subgraphs)}_"  # a subgraph of constants alone makes no step
    model = _model(lowering, nodes, inputs, sorted(outputs), constants)
    program = lower_fallback(model, lowering.target, prefix, schedule)
    buffers: dict[str, Buffer] = {name: lowering.plain(name) for name in inputs}
    for name, array in program.constants.items():
        buffers |= lowering.constants.add(prefix, "raw", {name: array})
    for name, (shape, dtype) in program.temporaries.items():
        buffers[name] = Buffer(name, max(1, int(np.prod(shape))) * np.dtype(dtype).itemsize)
    for name in outputs:
        if name not in program.aliases:
            buffers[name] = lowering.new_plain(name)
    for name, source in program.aliases.items():
        buffers[name] = Buffer(name, buffers[source].nbytes, buffers[source].place, buffers[source])
        lowering.adopt(name, buffers[name])
    names = ", ".join(dict.fromkeys(node.op for node in nodes))
    for index, call in enumerate(program.calls):
        function = program.functions[call.function]
        info = {"op": names, "reason": "no kernel of ours: TVM operator with our schedule"}
        title = nodes[0].name if len(program.calls) == 1 else f"{nodes[0].name}/{index}"
        args = [buffers[name] for name in call.args]
        lowering.steps.append(Step(title, NAME, (prefix, call.function), lambda f=function: f, args, info))  # type: ignore[misc]


def _model(
    lowering: Lowering, nodes: list[Node], inputs: list[str], outputs: list[str], constants: dict[str, np.ndarray]
) -> Any:
    from onnx import helper, numpy_helper

    graph = lowering.graph

    def info(name: str) -> Any:
        value = graph.values[name]
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype)), value.shape)

    body = [helper.make_node(n.op, n.inputs, n.outputs, name=n.name, **n.attrs) for n in nodes]
    tensors = [numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in constants.items()]
    ends = {*inputs, *outputs}
    between = [info(n) for node in nodes for n in node.outputs if n in graph.values and n not in ends]
    made = helper.make_graph(
        body, "subgraph", [info(n) for n in inputs], [info(n) for n in outputs], tensors, value_info=between
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", graph.opset)], ir_version=10)
