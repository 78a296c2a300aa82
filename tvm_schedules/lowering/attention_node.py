"""Attention as one node: where its matrices, masks and results lie, for whatever way a graph has it written.

What networks do to the result (reshapes, transposes) only says where the kernel writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from tvm_schedules.ir.graph import Attention, Fused, Graph, Node, Value
from tvm_schedules.ir.view import View
from tvm_schedules.lowering.tracing import RESHAPES

__all__ = ["AttentionWriter", "Found", "Mask", "Scores"]

MOST_REPEATED = 1 << 22
"""Elements that a constant mask may have when it is written out, where no strides repeat it."""


@dataclass
class Found:
    """An attention, and the nodes that it takes the place of in execution order."""

    attention: Attention
    nodes: list[Node]


@dataclass
class Scores:
    """What becomes of the product of queries and keys before the softmax.

    Attributes:
        product: The product.
        factor: What it is multiplied by.
        masks: What is done with them then, in order.
        nodes: All of these nodes, the product first.
        empty: Whether rows of NaN become zeros behind the softmax: those that may see no key.
    """

    product: Node
    factor: float
    masks: list[Mask]
    nodes: list[Node]
    empty: bool = False


@dataclass(frozen=True)
class Mask:
    """A tensor that is added to scores, or (``limit``) the most that they may be.

    Attributes:
        name: The tensor.
        shape: That the scores have there.
    """

    name: str
    shape: tuple[int, ...]
    limit: bool = False


class AttentionWriter:
    """Makes the nodes of one graph.

    Attributes:
        graph: Its values and constants get those of masks that are made.
        before: Nodes that make masks for what is being looked at.
    """

    def __init__(self, graph: Graph, fewest_rows: int) -> None:
        self.graph, self.fewest_rows, self.readers = graph, fewest_rows, graph.consumers()
        self.before: list[Node] = []

    def made(
        self,
        last: Node,
        first: Node,
        scores: Scores,
        operands: tuple[Sequence[str], tuple[View, View, View]],
        order: tuple[int, ...] | None,
    ) -> Found | None:
        """The node; None where a shape or type is not the kernel's."""
        graph, (names, (q, k, v)) = self.graph, operands
        if any(graph.values[n].dtype != "float32" if n in graph.values else True for n in names):
            return None
        if any(name in graph.constants or name in graph.weights for name in names) or q.shape[-2] < self.fewest_rows:
            return None
        masks = []
        for index, given in enumerate(scores.masks):
            known = graph.constants.get(given.name)
            if scores.empty and known is not None and known.dtype != bool and np.isneginf(known).all(-1).any():
                return None  # zeros for rows that never see a key: no network needs them fast
            mask = self._mask(given.name, given.shape, (*q.shape[:-1], k.shape[-2]), f"{last.name}/mask{index}")
            if mask is None:
                return None
            masks.append(mask)
        name, nodes = last.outputs[0], [*scores.nodes, last]
        inner = (*q.shape[:-1], v.shape[-1])
        folded = graph.values[name].shape
        if order is not None and len(folded) == 3:
            folded = (folded[0], folded[1], q.shape[1] * q.shape[2], v.shape[-1])
        out, after = self._results(name)
        view = self._written(out, after, folded, order, inner)
        while view is None and after:
            after.pop()
            out = after[-1].outputs[0] if after else name
            view = self._written(out, after, folded, order, inner)
        if view is None:
            return None
        attention = Attention(
            last.name, "Attention", [*names, *(m for m, _ in masks)], [out],
            fused=[node.name for node in [*nodes, *after] if node is not last],
            factor=scores.factor, q=q, k=k, v=v, masks=tuple(view for _, view in masks),
            limits=tuple(mask.limit for mask in scores.masks), empty=scores.empty, out=view,
        )  # fmt: skip
        return Found(attention, [*nodes, *after])

    def _results(self, name: str) -> tuple[str, list[Node]]:
        """What reshapes and transposes make of a result that nobody else reads."""
        nodes: list[Node] = []
        while (node := self.only_reader(name)) is not None and (node.op in RESHAPES or node.op == "Transpose"):
            if isinstance(node, Fused) or self.graph.values[node.outputs[0]].quant or node.inputs[0] != name:
                break
            nodes.append(node)
            name = node.outputs[0]
        return name, nodes

    def _written(
        self, out: str, after: Sequence[Node], shape: tuple[int, ...], order: Sequence[int] | None, inner: Sequence[int]
    ) -> View | None:
        """Where the result lies in the tensor that the last of these nodes makes of it."""
        view: View | None = View.whole(self.graph.values[out].shape)
        for node in reversed(after):
            before = self.graph.values[node.inputs[0]].shape
            if view is None:
                return None
            if node.op == "Transpose":
                perm = list(node.attrs.get("perm", range(len(before))[::-1]))
                view = view.transposed([perm.index(axis) for axis in range(len(perm))])
            else:
                view = view.reshaped(before)
        view = view.reshaped(shape) if view is not None else None
        if view is not None and order is not None:
            view = view.transposed(order)
        return view.reshaped(inner) if view is not None else None

    def _mask(self, name: str, there: tuple[int, ...], shape: tuple[int, ...], new: str) -> tuple[str, View] | None:
        """A mask's tensor and how it lies over the scores ``shape``; ``there`` is the shape that they have with it."""
        array = self.graph.constants.get(name)
        if array is not None and array.dtype == bool:
            if not array.any(-1).all():
                return None  # a row without any key
            array = np.where(array, np.float32(0), np.float32(-np.inf))
            name = self.constant(new, array)
        elif array is None and name in self.graph.values and self.graph.values[name].dtype == "bool":
            name = self.numbers(name, new, 0.0, -np.inf)
        if array is None and (name not in self.graph.values or self.graph.values[name].quant):
            return None
        own = array.shape if array is not None else self.graph.values[name].shape
        dtype = array.dtype.name if array is not None else self.graph.values[name].dtype
        try:
            view = View.whole(own).broadcast(there).reshaped(shape)
        except ValueError:
            return None
        if view is None and array is not None and prod(shape) <= MOST_REPEATED:
            name = self.constant(new, np.ascontiguousarray(np.broadcast_to(array, there).reshape(shape)))
            view = View.whole(shape)
        if dtype != "float32" or view is None or (view.strides[-1] not in (0, 1) and view.shape[-1] > 1):
            return None
        return name, view

    def _unused(self, name: str) -> str:
        while name in self.graph.values or name in self.graph.constants:  # a file may call its tensors anything
            name += "'"
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        """A new constant of this name, or of one like it."""
        name = self._unused(name)
        self.graph.constants[name] = array
        return name

    def numbers(self, name: str, new: str, true: float, false: float) -> str:
        """Two numbers in the places of true and false of a tensor that is computed."""
        numbers = [
            self.constant(f"{new}/{what}", np.array(n, np.float32))
            for what, n in zip(("true", "false"), (true, false), strict=True)
        ]
        out = self._unused(new)
        self.graph.values[out] = Value(out, self.graph.values[name].shape, "float32")
        self.before.append(Node(out, "Where", [name, *numbers], [out]))
        return out

    def only_reader(self, name: str) -> Node | None:
        """The one node that reads a tensor; None if there are others, or it is an output."""
        after = self.readers.get(name, [])
        return after[0] if len(after) == 1 and name not in self.graph.outputs else None
