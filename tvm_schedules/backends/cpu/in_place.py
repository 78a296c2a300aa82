"""Finds the outputs that are an input apart from a few elements: a cache of keys and values, and a step's own in it.

Such an output may have the input's memory, where only the few elements are written. What is read of the output later is
read behind that; what is read of the input would not be the old content any more, so nothing else may read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from tvm_schedules.ir.graph import Graph, Node, Scatter

__all__ = ["in_place"]


def in_place(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """Writes scatters from inputs to outputs of the network as :class:`~tvm_schedules.ir.graph.Scatter`.

    ``ScatterElements`` and ``ScatterND``, and the latter between two transpositions, as torch writes ``index_copy``.

    Args:
        graph: It is not changed.

    Returns:
        The graph, and the inputs by the outputs that may have their memory.
    """
    readers, producers = graph.consumers(), graph.producers()
    carried: dict[str, str] = {}
    gone: set[int] = set()
    made: dict[int, Scatter] = {}
    for node in graph.nodes:
        found = _found(graph, readers, producers, node)
        if found is None or found[1] in carried.values():
            continue
        scatter, source, nodes = found
        carried[scatter.outputs[0]] = source
        gone.update(id(one) for one in nodes)
        made[id(nodes[-1])] = scatter
    if not carried:
        return graph, {}
    nodes = [made.get(id(node), node) for node in graph.nodes if id(node) in made or id(node) not in gone]
    return replace(graph, nodes=nodes), carried


def _found(
    graph: Graph, readers: dict[str, list[Node]], producers: dict[str, Node], node: Node
) -> tuple[Scatter, str, list[Node]] | None:
    """A scatter of whole tensors, the input it changes, and the nodes that it takes the place of."""
    if node.op not in ("ScatterElements", "ScatterND") or node.attrs.get("reduction", "none") not in ("none", b"none"):
        return None
    source, out, nodes = node.inputs[0], node.outputs[0], [node]
    before, perm = producers.get(source), list(range(len(graph.values[out].shape)))
    if before is not None and before.op == "Transpose" and node.op == "ScatterND":
        perm = list(before.attrs.get("perm", perm[::-1]))
        after = readers.get(out, [])
        if len(after) != 1 or after[0].op != "Transpose" or out in graph.outputs or readers[source] != [node]:
            return None
        if [perm[axis] for axis in after[0].attrs.get("perm", perm[::-1])] != sorted(perm):
            return None
        nodes, source, out = [before, node, after[0]], before.inputs[0], after[0].outputs[0]
    ends = graph.inputs.count(source) == graph.outputs.count(out) == 1 and source not in graph.outputs
    if not ends or readers[source] != [nodes[0]] or graph.values[out].quant or graph.values[source].quant:
        return None
    shape = graph.values[out].shape
    scatter = Scatter(
        node.name,
        node.op,
        list(node.inputs[1:3]),
        [out],
        fused=[one.name for one in nodes if one is not node],
        axis=int(node.attrs.get("axis", 0)) % len(shape) if node.op == "ScatterElements" else None,
        shape=tuple(shape[axis] for axis in perm),
        strides=tuple(_strides(shape)[axis] for axis in perm),
    )
    return scatter, source, nodes


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
