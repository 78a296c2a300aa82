"""Writes convolutions of 8-bit images of one pixel as linear layers, whose kernels are better for so few numbers.

Such images come from global pooling: in squeeze-and-excitation, and before classifiers that are convolutions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tvm_schedules.ir.graph import Graph, Node, Value, Weight
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.passes.weights import as_weight

__all__ = ["run"]

ELEMENTWISE = frozenset(
    {"Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Gelu", "Swish", "QuantizeLinear", "DequantizeLinear"}
)
"""Operators that compute element by element, if further inputs are single numbers."""


def run(graph: Graph) -> None:
    """Replaces the convolutions, in place, by a Gemm between two Reshapes, of which the second moves down."""
    nodes: list[Node] = []
    producers = graph.producers()
    for node in graph.nodes:
        before = producers.get(node.inputs[0]) if node.op == "Conv" else None
        rounded = before is not None and before.op == "DequantizeLinear"
        nodes += (_linear(graph, node) if rounded else []) or [node]
    graph.nodes = nodes
    readers = graph.consumers()
    for index, node in enumerate(graph.nodes):
        after = readers.get(node.outputs[0], [])
        back = node.op == "Reshape" and node.name.endswith(BACK)
        if back and len(after) == 1 and node.outputs[0] not in graph.outputs and _moves(graph, after[0]):
            _move(graph, index, after[0])
            readers = graph.consumers()


BACK = "/image"
"""End of the name of a Reshape to an image."""


def _linear(graph: Graph, node: Node) -> list[Node]:
    """What stands for a convolution; nothing where its image has more than one pixel."""
    source, out = graph.values[node.inputs[0]], graph.values[node.outputs[0]]
    weight = as_weight(graph, node.inputs[1], 0)
    if {*source.shape[2:], *out.shape[2:]} != {1} or node.attrs.get("group", 1) != 1 or weight is None:
        return []
    if weight.channel_axis != 0 or (len(node.inputs) > 2 and node.inputs[2] and node.inputs[2] not in graph.constants):
        return []
    flat = _flat(weight)
    if flat is None or source.dtype != "float32":
        return []
    (batch, channels), rows = source.shape[:2], out.shape[1]
    names = {part: f"{node.outputs[0]}.{part}" for part in ("rows", "weight", "linear")}
    graph.values[names["rows"]] = Value(names["rows"], (batch, channels), "float32")
    graph.values[names["linear"]] = Value(names["linear"], (batch, rows), "float32")
    graph.weights[names["weight"]] = flat
    bias = [node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else []
    first = _reshape(graph, f"{node.name}/rows", source.name, names["rows"])
    gemm = Node(node.name, "Gemm", [names["rows"], names["weight"], *bias], [names["linear"]], {"transB": 1})
    return [first, gemm, _reshape(graph, f"{node.name}{BACK}", names["linear"], out.name)]


def _flat(weight: Weight) -> Weight | None:
    """The weight ``[O, K]`` of the single pixel that is read; None where a kernel reads more, which is padding."""
    if isinstance(weight, TernaryTensor):
        codes = weight.codes
        return replace(weight, codes=codes.reshape(codes.shape[:3])) if set(codes.shape[3:]) == {1} else None
    values = weight.values
    return replace(weight, values=values.reshape(values.shape[:2])) if set(values.shape[2:]) == {1} else None


def _reshape(graph: Graph, name: str, source: str, out: str) -> Node:
    shape = f"{out}.shape"
    graph.constants[shape] = np.array(graph.values[out].shape, np.int64)
    return Node(name, "Reshape", [source, shape], [out])


def _moves(graph: Graph, node: Node) -> bool:
    single = all(not name or (name in graph.constants and graph.constants[name].size == 1) for name in node.inputs[1:])
    return node.op in ELEMENTWISE and len(node.outputs) == 1 and single


def _move(graph: Graph, index: int, node: Node) -> None:
    """Lets a Reshape and the node behind it change places."""
    back = graph.nodes[index]
    late = f"{node.outputs[0]}.rows"
    made = graph.values[node.outputs[0]]
    graph.values[late] = replace(made, name=late, shape=graph.values[back.inputs[0]].shape)
    moved = Node(node.name, node.op, [back.inputs[0], *node.inputs[1:]], [late], node.attrs, node.domain)
    place = next(i for i, other in enumerate(graph.nodes) if other is node)
    graph.nodes[index] = moved
    graph.nodes[place] = _reshape(graph, back.name, late, node.outputs[0])
