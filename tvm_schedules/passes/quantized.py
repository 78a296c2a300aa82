"""Marks the 8-bit tensors; moves QuantizeLinear up, DequantizeLinear down through operators that commute with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tvm_schedules.ir.graph import Graph, Node, Quant, Value

__all__ = ["COMMUTING", "resolve", "run"]

COMMUTING = {"MaxPool", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity"}
"""Rounding is monotone, so a maximum may be taken before or after it; the rest only moves values."""


def run(graph: Graph) -> None:
    """Sets ``Value.quant`` of 8-bit inputs and of tensors behind a QuantizeLinear of constant parameters, in uint8."""
    _hoist(graph)
    _sink(graph)
    readers, producers = graph.consumers(), graph.producers()
    _mark_inputs(graph, readers)
    for node in graph.nodes:
        quant = parameters(graph, node) if node.op == "QuantizeLinear" else None
        if node.op in COMMUTING and graph.values[node.inputs[0]].quant:
            quant = graph.values[node.inputs[0]].quant
        if quant is None:
            continue
        out = node.outputs[0]
        if graph.values[out].dtype == "int8":
            if out in graph.outputs or any(r.op not in {*COMMUTING, "DequantizeLinear"} for r in readers.get(out, [])):
                continue
            quant = Quant(quant.scale, quant.zero_point + 128) if node.op == "QuantizeLinear" else quant
        if node.op == "QuantizeLinear":
            quant = replace(quant, top=_top(graph, producers, node.inputs[0], quant))
        graph.values[out] = replace(graph.values[out], dtype="uint8", quant=quant)


def _mark_inputs(graph: Graph, readers: dict[str, list[Node]]) -> None:
    """Sets ``Value.quant`` of the network's uint8 inputs that are read through one DequantizeLinear."""
    for name in graph.inputs:
        after = readers.get(name, [])
        if graph.values[name].dtype == "uint8" and len(after) == 1 and after[0].op == "DequantizeLinear":
            graph.values[name] = replace(graph.values[name], quant=parameters(graph, after[0]))


def parameters(graph: Graph, node: Node) -> Quant | None:
    """Scale and zero point of a Quantize- or DequantizeLinear with one constant pair for the tensor, in 8 bits."""
    scale = graph.constants.get(node.inputs[1])
    zero = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.zeros(1, np.uint8)
    if scale is None or zero is None or scale.size != 1 or zero.dtype not in (np.uint8, np.int8):
        return None
    return Quant(float(scale.ravel()[0]), int(zero.ravel()[0]))


def _top(graph: Graph, producers: dict[str, Node], name: str, quant: Quant) -> int:
    """The largest integer that a real tensor can become, by the bounds of a Clip that made it."""
    node = producers.get(name)
    while node is not None and node.op in COMMUTING:
        node = producers.get(node.inputs[0])
    if node is None or node.op != "Clip" or len(node.inputs) < 3:
        return 255
    high = graph.constants.get(node.inputs[2])
    if high is None:
        return 255
    steps = np.rint(high.ravel()[0].astype(np.float32) / np.float32(quant.scale)) + quant.zero_point
    return int(np.clip(steps, 0, 255))


def resolve(graph: Graph, producers: dict[str, Node], name: str) -> str:
    """The 8-bit tensor that a float tensor is the dequantized form of; the name itself if there is none."""
    node = producers.get(name)
    if node is None or node.op != "DequantizeLinear" or parameters(graph, node) is None:
        return name
    source = graph.values.get(node.inputs[0])
    return source.name if source is not None and source.quant is not None else name


def _hoist(graph: Graph) -> None:
    changed = True
    while changed:
        changed = False
        readers = graph.consumers()
        for index, node in enumerate(graph.nodes):
            after = readers.get(node.outputs[0], [])
            if node.op not in COMMUTING or len(node.outputs) > 1 or len(after) != 1 or node.outputs[0] in graph.outputs:
                continue
            quantize = after[0]
            if quantize.op != "QuantizeLinear" or parameters(graph, quantize) is None:
                continue
            source, early = node.inputs[0], f"{node.outputs[0]}.early"
            if graph.values[source].dtype != "float32":
                continue
            dtype = graph.values[quantize.outputs[0]].dtype
            graph.values[early] = Value(early, graph.values[source].shape, dtype)
            graph.nodes[index] = Node(
                quantize.name, "QuantizeLinear", [source, *quantize.inputs[1:]], [early], quantize.attrs
            )
            moved = Node(node.name, node.op, [early, *node.inputs[1:]], [quantize.outputs[0]], node.attrs)
            graph.nodes[graph.nodes.index(quantize)] = moved
            changed = True
            break


def _sink(graph: Graph) -> None:
    """Lets operators that commute with DequantizeLinear work on the 8-bit tensor."""
    for index, node in enumerate(graph.nodes):
        before = graph.producers().get(node.inputs[0]) if node.op in COMMUTING and len(node.outputs) == 1 else None
        if before is None or before.op != "DequantizeLinear" or parameters(graph, before) is None:
            continue
        source, out = before.inputs[0], node.outputs[0]
        after = graph.consumers().get(out, [])
        if source not in graph.values or source in graph.constants or [r.op for r in after] == ["QuantizeLinear"]:
            continue
        late = f"{out}.late"
        graph.values[late] = Value(late, graph.values[out].shape, graph.values[source].dtype)
        graph.nodes[index] = Node(node.name, node.op, [source, *node.inputs[1:]], [late], node.attrs)
        name = f"{node.name}/dequantize"
        graph.nodes.insert(index + 1, Node(name, before.op, [late, *before.inputs[1:]], [out], before.attrs))
