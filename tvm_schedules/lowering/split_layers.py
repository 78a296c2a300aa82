"""Convolutions whose channels are split behind them: a convolution for every part, and nothing is copied.

Every part can then be rounded to bytes as whoever reads it needs it, where the whole had to be stored in floats.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import numpy as np

from tvm_schedules.ir.graph import DenseWeight, Graph, Node, Value, Weight, Windowed
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.joined import rounding_too

__all__ = ["with_split_layers"]


def with_split_layers(graph: Graph) -> Graph:
    """The graph with as many convolutions as a Split made parts of the channels of one.

    A part that only a QuantizeLinear reads is rounded by its convolution.
    """
    readers = graph.consumers()
    values = dict(graph.values)
    instead: dict[int, list[Node]] = {}
    for node in graph.nodes:
        split = _split(graph, readers, node)
        if split is None or not isinstance(node, Windowed):
            continue
        made: list[Node] = []
        ends = list(accumulate(graph.values[name].shape[1] for name in split.outputs))
        for number, (out, start, end) in enumerate(zip(split.outputs, [0, *ends], ends, strict=False)):
            part = _part(node, out, number, start, end)
            shape = graph.values[out].shape
            inner = [part.early, *(name for step in part.tail for name in step.outputs)] if part.activation else []
            values.update({name: Value(name, shape, "float32") for name in inner if name not in values})
            rounding = readers.get(out, [])
            if len(rounding) == 1 and out not in graph.outputs and _rounds(graph, rounding[0]):
                made.append(rounding_too(part, rounding[0]))
                instead[id(rounding[0])] = []
            else:
                made.append(part)
        instead[id(node)], instead[id(split)] = made, []
    nodes = [new for node in graph.nodes for new in instead.get(id(node), [node])]
    return replace(graph, nodes=nodes, values=values) if instead else graph


def _split(graph: Graph, readers: dict[str, list[Node]], node: Node) -> Node | None:
    """The Split of channels that is all that reads a convolution's floats."""
    if not isinstance(node, Windowed) or node.weight is None or node.residual or node.window.groups != 1:
        return None
    name = node.outputs[0]
    after = readers.get(name, [])
    if len(after) != 1 or name in graph.outputs or graph.values[name].dtype != "float32" or after[0].op != "Split":
        return None
    split = after[0]
    whole = all(split.outputs) and int(split.attrs.get("axis", 0)) % len(graph.values[name].shape) == 1
    return split if whole else None


def _part(node: Windowed, out: str, number: int, start: int, end: int) -> Windowed:
    """The convolution of some of the output channels, which makes one output of the Split."""
    weight = node.weight
    assert weight is not None
    names = {node.early: f"{node.early}.part{number}"} if node.activation else {}
    for step in node.tail:
        names |= {name: f"{name}.part{number}" for name in step.outputs}
    if node.activation:
        names[node.outputs[0]] = out
    tail = [
        replace(
            step,
            name=f"{step.name}/{number}",
            inputs=[names.get(name, name) for name in step.inputs],
            outputs=[names[name] for name in step.outputs],
        )
        for step in node.tail
    ]
    return replace(
        node,
        name=f"{node.name}/{number}",
        outputs=[out],
        scale=_channels(node.scale, start, end),
        bias=_channels(node.bias, start, end),
        weight=_rows(weight, start, end),
        fused=list(node.fused),
        tail=tail,
        early=names.get(node.early, node.early),
    )


def _channels(numbers: np.ndarray, start: int, end: int) -> np.ndarray:
    return numbers if numbers.size == 1 else numbers[start:end]


def _rows(weight: Weight, start: int, end: int) -> Weight:
    """Some of the output channels of a weight."""
    if isinstance(weight, DenseWeight):
        return DenseWeight(weight.values[start:end], _channels(weight.scale, start, end), 0)
    wide = weight.per_channel
    codes = np.ascontiguousarray(wide.codes[:, start:end])
    return TernaryTensor(codes, wide.positive[:, start:end], wide.negative[:, start:end], 0)


def _rounds(graph: Graph, node: Node) -> bool:
    """Whether a node rounds to bytes that stand for numbers."""
    return node.op == "QuantizeLinear" and graph.values[node.outputs[0]].quant is not None
