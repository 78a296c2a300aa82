"""Concatenations whose results are rounded to bytes: their parts are rounded instead, and joined as bytes."""

from __future__ import annotations

from dataclasses import replace

from tvm_schedules.ir.graph import Fused, GlobalPool, Graph, Linear, Node, Pool, Quant, Value, Windowed
from tvm_schedules.passes.quantized import resolve

__all__ = ["rounder", "rounding_too", "with_rounded_parts"]


def with_rounded_parts(graph: Graph) -> Graph:
    """The graph with bytes for the parts of concatenations, a quarter of what is written, copied and read otherwise.

    A layer that makes a part, for nobody else, rounds it as it does everything before it stores it.
    """
    readers, producers = graph.consumers(), graph.producers()
    values = dict(graph.values)
    instead: dict[int, list[Node]] = {}
    for node in graph.nodes:
        quantize = _rounded(graph, readers, node)
        if quantize is None:
            continue
        out, parts = quantize.outputs[0], []
        quant = values[out].quant
        assert quant is not None
        before: list[Node] = []
        for number, name in enumerate(node.inputs):
            part = f"{out}.part{number}"
            maker = rounder(graph, producers.get(name))
            parts.append(part)
            values[part] = Value(part, values[name].shape, "uint8", Quant(quant.scale, quant.zero_point))
            rounding = Node(
                f"{quantize.name}/{number}", quantize.op, [name, *quantize.inputs[1:]], [part], quantize.attrs
            )
            if maker is not None and len(readers[name]) == node.inputs.count(name) == 1:
                instead[id(maker)] = [rounding_too(maker, rounding)]
            else:
                before.append(_from_bytes(graph, producers, rounding) or rounding)
        instead[id(node)] = [*before, replace(node, inputs=parts, outputs=[out])]
        instead[id(quantize)] = []
    nodes = [new for node in graph.nodes for new in instead.get(id(node), [node])]
    return replace(graph, nodes=nodes, values=values) if instead else graph


def _from_bytes(graph: Graph, producers: dict[str, Node], rounding: Node) -> Pool | None:
    """A rounding of what was rounded on another grid in planes, without the floats between the two."""
    source = resolve(graph, producers, rounding.inputs[0])
    in_planes = isinstance(producers.get(source), Windowed | Pool) and graph.values[source].quant is not None
    return Pool(rounding.name, rounding.op, [source], list(rounding.outputs)) if in_planes else None


def _rounded(graph: Graph, readers: dict[str, list[Node]], node: Node) -> Node | None:
    """What rounds a concatenation of floats that nothing else reads, to bytes on one grid."""
    after = readers.get(node.outputs[0], []) if node.op == "Concat" else []
    if len(after) != 1 or node.outputs[0] in graph.outputs or isinstance(after[0], Fused):
        return None
    quantize, known = after[0], [name for name in node.inputs if name in graph.values and name not in graph.constants]
    if quantize.op != "QuantizeLinear" or graph.values[quantize.outputs[0]].quant is None:
        return None
    floats = len(known) == len(node.inputs) and all(graph.values[name].dtype == "float32" for name in known)
    return quantize if floats else None


def rounding_too(maker: Fused, rounding: Node) -> Fused:
    """A layer that does what a QuantizeLinear behind it does; of one with an activation function it is in the tail."""
    tail = [*maker.tail, rounding] if maker.activation else maker.tail
    return replace(maker, outputs=list(rounding.outputs), fused=[*maker.fused, rounding.name], tail=tail)


def rounder(graph: Graph, maker: Node | None) -> Fused | None:
    """The node, if it rounds its result when it is told to, and the result is not the network's."""
    if isinstance(maker, Windowed | Linear | GlobalPool) or (isinstance(maker, Pool) and maker.gate is None):
        return None if maker.outputs[0] in graph.outputs else maker
    return None
