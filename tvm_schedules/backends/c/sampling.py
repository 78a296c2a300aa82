"""What a window of one pixel with a stride reads, as a tensor of its own: a quarter of the pixels with a stride of two.

A shortcut that is made smaller reads one phase of four. Of its own, that phase can stay while the others are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil

from tvm_schedules.ir.graph import Graph, Node, Windowed
from tvm_schedules.ir.layout import Triple, Window

__all__ = ["OPERATOR", "Samples", "sampled"]

OPERATOR = "tern:Sample"
"""Of the nodes that stand for such a tensor; they have no steps, since who reads the tensor asks for it."""

Samples = Mapping[str, tuple[str, Triple]]
"""By the name of such a tensor, what it is made of and the strides."""


def sampled(graph: Graph) -> tuple[Graph, Samples]:
    """A graph in which these windows have no strides, and what they read."""
    nodes: list[Node] = []
    found: dict[str, tuple[str, Triple]] = {}
    values = dict(graph.values)
    for node in graph.nodes:
        if isinstance(node, Windowed) and _reads_few(node.window):
            source, steps = node.inputs[0], node.window.strides
            name = f"{source}:every {steps}"
            if name not in found:
                shape = values[source].shape
                sizes = [ceil(n / step) for n, step in zip(shape[2:], steps[5 - len(shape) :], strict=True)]
                values[name] = replace(values[source], name=name, shape=(*shape[:2], *sizes))
                nodes.append(Node(name, OPERATOR, [source], [name]))
                found[name] = source, steps
            window = Window((1, 1, 1), groups=node.window.groups)
            node = replace(node, inputs=[name, *node.inputs[1:]], window=window)
        nodes.append(node)
    return replace(graph, nodes=nodes, values=values), found


def _reads_few(window: Window) -> bool:
    return window.kernel == (1, 1, 1) and max(window.strides) > 1 and not any(max(pair) for pair in window.pads)
