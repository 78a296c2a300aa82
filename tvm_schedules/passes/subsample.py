"""Writes a shortcut without parameters (every second pixel, new channels of zeros) as a ternary convolution.

A Slice with a step over whole spatial axes and a Pad of channels with zeros only move values, so they hold for the
8-bit form of a tensor as well: what follows reads 8 bits, and the pixels come from the planes that the strided
convolution beside the shortcut reads anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tvm_schedules.ir.graph import Graph, Node, Windowed
from tvm_schedules.ir.layout import Window, spatial3
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.passes.quantized import resolve

__all__ = ["run"]

_END = 1 << 31
"""Ends of a Slice from here on mean "to the end" whatever the size."""


@dataclass
class _Chain:
    """Slices and pads one after the other: steps of the spatial axes, channels before and behind."""

    steps: list[int]
    front: int = 0
    back: int = 0

    def take(self, graph: Graph, node: Node) -> bool:
        """Adds a node; False if it does more than step over whole spatial axes or pad channels with zeros."""
        shape = graph.values[node.inputs[0]].shape
        if node.op == "Slice":
            return self._slice(graph, node, shape)
        return node.op == "Pad" and self._pad(graph, node, len(shape))

    def _slice(self, graph: Graph, node: Node, shape: tuple[int, ...]) -> bool:
        parts = [graph.constants.get(name) for name in node.inputs[1:] if name]
        if len(parts) < 4 or any(part is None for part in parts):
            return False
        rows = zip(*(part.ravel().tolist() for part in parts if part is not None), strict=True)
        found = {}
        for start, end, axis, step in rows:
            axis %= len(shape)
            if axis < 2 or start or step < 1 or (0 <= end < min(shape[axis], _END)) or end < 0:
                return False
            found[axis - 2] = step
        for axis, step in found.items():
            self.steps[axis] *= step
        return True

    def _pad(self, graph: Graph, node: Node, rank: int) -> bool:
        value = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.zeros(1)
        pads = graph.constants.get(node.inputs[1]) if len(node.inputs) == 2 or not node.inputs[3:] else None
        if node.attrs.get("mode", "constant") not in ("constant", b"constant") or value is None or pads is None:
            return False
        numbers = pads.ravel().tolist()
        if value.any() or len(numbers) != 2 * rank or min(numbers) < 0:
            return False
        self.front, self.back = self.front + numbers.pop(1), self.back + numbers.pop(rank)
        return not any(numbers)


def run(graph: Graph) -> None:
    """Replaces chains of Slice and Pad, in place."""
    readers, producers = graph.consumers(), graph.producers()
    gone: set[int] = set()
    nodes: list[Node] = []
    for node in graph.nodes:
        if id(node) in gone:
            continue
        made = _start(graph, readers, producers, node, gone)
        nodes += made or [node]
    graph.nodes = nodes


def _start(
    graph: Graph, readers: dict[str, list[Node]], producers: dict[str, Node], node: Node, gone: set[int]
) -> list[Node]:
    """The nodes in the place of the chain that begins with ``node``; none if there is no such chain."""
    if node.op not in ("Slice", "Pad") or node.inputs[0] not in graph.values:
        return []
    shape = graph.values[node.inputs[0]].shape
    if not 3 <= len(shape) <= 5 or graph.values[node.inputs[0]].dtype != "float32":
        return []
    chain, last, taken = _Chain([1] * (len(shape) - 2)), node, []
    follower: Node | None = node
    while follower is not None and chain.take(graph, follower):
        last = follower
        taken.append(id(follower))
        after = readers.get(last.outputs[0], [])
        follower = after[0] if len(after) == 1 and last.outputs[0] not in graph.outputs else None
    if not taken:
        return []
    gone.update(taken)
    return _convolution(graph, producers, node, last.outputs[0], chain)


def _convolution(graph: Graph, producers: dict[str, Node], node: Node, out: str, chain: _Chain) -> list[Node]:
    """A convolution that selects channels; with a DequantizeLinear behind it where the input is 8-bit."""
    source = resolve(graph, producers, node.inputs[0])
    channels = graph.values[source].shape[1]
    rows = chain.front + channels + chain.back
    codes = np.eye(rows, channels, -chain.front, dtype=np.int8).reshape(1, rows, channels, 1, 1, 1)
    one = np.ones((1, 1), np.float32)
    made = Windowed(
        node.name,
        node.op,
        [source],
        [out],
        scale=np.ones(rows, np.float32),
        bias=np.zeros(rows, np.float32),
        window=Window((1, 1, 1), spatial3(chain.steps, 1)),
        weight=TernaryTensor(codes, one, one),
    )
    if source == node.inputs[0]:
        return [made]
    early = f"{out}.early"
    graph.values[early] = replace(graph.values[source], name=early, shape=graph.values[out].shape)
    made.outputs = [early]
    behind = producers[node.inputs[0]]
    return [made, Node(f"{out}.dequantized", "DequantizeLinear", [early, *behind.inputs[1:]], [out], behind.attrs)]
