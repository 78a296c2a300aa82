"""Tensors that are repeated and then rounded to bytes: they are rounded first, and fewer bytes are moved."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from tvm_schedules.ir.graph import Fused, Graph, Node, Value
from tvm_schedules.lowering.joined import rounder, rounding_too

__all__ = ["with_early_rounding"]

REPEATING = {"Resize", "Upsample", "Expand", "Tile"}
"""Operators that may give elements more than once, and compute nothing."""


def with_early_rounding(graph: Graph) -> Graph:
    """The graph in which a QuantizeLinear behind an enlargement without interpolation is in front of it.

    A layer that makes what is enlarged, for nobody else, rounds it as it does everything before it stores it.
    """
    readers, producers = graph.consumers(), graph.producers()
    values = dict(graph.values)
    instead: dict[int, list[Node]] = {}
    for quantize in graph.nodes:
        node = producers.get(quantize.inputs[0]) if quantize.inputs else None
        if node is None or not _fits(graph, readers, node, quantize):
            continue
        name, out = node.inputs[0], quantize.outputs[0]
        small = f"{out}.small"
        values[small] = Value(small, values[name].shape, "uint8", values[out].quant)
        rounding = replace(quantize, inputs=[name, *quantize.inputs[1:]], outputs=[small])
        moved = replace(node, inputs=[small, *node.inputs[1:]], outputs=[out])
        maker = rounder(graph, producers.get(name))
        if maker is not None and len(readers[name]) == 1 and id(maker) not in instead:
            instead[id(maker)] = [rounding_too(maker, rounding)]
            instead[id(node)] = [moved]
        else:
            instead[id(node)] = [rounding, moved]
        instead[id(quantize)] = []
    nodes = [new for node in graph.nodes for new in instead.get(id(node), [node])]
    return replace(graph, nodes=nodes, values=values) if instead else graph


def _fits(graph: Graph, readers: dict[str, list[Node]], node: Node, quantize: Node) -> bool:
    """Whether a node enlarges floats, nothing but a QuantizeLinear reads them, and no number is computed."""
    if isinstance(node, Fused) or node.op not in REPEATING or quantize.op != "QuantizeLinear":
        return False
    name, made, out = node.inputs[0], node.outputs[0], quantize.outputs[0]
    if name not in graph.values or name in graph.constants or graph.values[out].quant is None:
        return False
    alone = len(readers.get(made, [])) == 1 and made not in graph.outputs
    floats = graph.values[name].dtype == graph.values[made].dtype == "float32"
    larger = prod(graph.values[made].shape) >= 2 * prod(graph.values[name].shape)
    nearest = node.attrs.get("mode", "nearest") in ("nearest", b"nearest")
    outside = node.attrs.get("coordinate_transformation_mode", "") in ("tf_crop_and_resize", b"tf_crop_and_resize")
    return alone and floats and larger and nearest and not outside
