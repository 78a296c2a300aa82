"""Finds the tensor in whose memory another one lies: what reshapes, transposes, slices and factors make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tvm_schedules.ir.graph import Fused, Graph, Node
from tvm_schedules.ir.view import View

__all__ = ["RESHAPES", "Tracer"]

RESHAPES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Operators that change axes only."""


class Tracer:
    """Follows tensors of one graph back to where they come from."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.producers = graph, graph.producers()

    def trace(self, name: str) -> tuple[str, View, float]:
        """The tensor in which another one lies, where, and what it is multiplied by."""
        node, shape = self.producers.get(name), self.graph.values[name].shape
        own = name, View.whole(shape), 1.0
        if node is None or isinstance(node, Fused) or self.graph.values[name].quant:
            return own
        scaled = self.scalar(node) if node.op in ("Mul", "Div") else None
        if scaled is not None and self.graph.values[scaled[0]].shape == shape:
            source, view, factor = self.trace(scaled[0])
            return source, view, factor * scaled[1]
        if not node.inputs or node.inputs[0] not in self.graph.values or node.inputs[0] in self.graph.constants:
            return own
        moved = self._moved(node, name, shape)
        return own if moved is None else moved

    def _moved(self, node: Node, name: str, shape: tuple[int, ...]) -> tuple[str, View, float] | None:
        """:meth:`trace` through an operator that moves elements only; None where it does something else."""
        if node.op not in {*RESHAPES, "Transpose", "Slice", "Split", "Gather"}:
            return None
        source, inner, factor = self.trace(node.inputs[0])
        view: View | None = None
        if node.op in RESHAPES:
            view = inner.reshaped(shape)
        elif node.op == "Transpose":
            view = inner.transposed(node.attrs.get("perm", range(len(inner.shape))[::-1]))
        elif node.op == "Split":
            axis = int(node.attrs.get("axis", 0)) % len(inner.shape)
            sizes = [self.graph.values[one].shape[axis] if one in self.graph.values else None for one in node.outputs]
            before = sizes[: node.outputs.index(name)]
            if None not in before:
                view = inner.cut(axis, sum(size or 0 for size in before), shape[axis])
        elif node.op == "Slice":
            view = _sliced(inner, [self.graph.constants.get(one) for one in node.inputs[1:]], shape)
        else:
            index = self.graph.constants.get(node.inputs[1])
            axis = int(node.attrs.get("axis", 0)) % len(inner.shape)
            if index is not None and index.size == 1:
                view = inner.cut(axis, int(index.item()) % inner.shape[axis], 1).reshaped(shape)
        return None if view is None else (source, view, factor)

    def scalar(self, node: Node) -> tuple[str, float] | None:
        """The operand of a product or quotient with one number, and the factor."""
        for index, name in enumerate(node.inputs if len(node.inputs) == 2 else ()):
            array, other = self.graph.constants.get(name), node.inputs[1 - index]
            if array is None or array.size != 1 or other not in self.graph.values or (node.op == "Div" and index == 0):
                continue
            value = float(array.ravel()[0])
            return other, 1 / value if node.op == "Div" else value
        return None


def _sliced(view: View, given: Sequence[np.ndarray | None], shape: Mapping[int, int] | Sequence[int]) -> View | None:
    """A view of a Slice with constant starts, axes and steps, whose result has the shape ``shape``."""
    if any(array is None for array in given):
        return None
    starts, _, *more = ([int(n) for n in array.ravel()] for array in given if array is not None)
    axes = more[0] if more else list(range(len(starts)))
    steps = more[1] if len(more) > 1 else [1] * len(starts)
    for start, axis, step in zip(starts, axes, steps, strict=True):
        if step < 1:
            return None
        axis %= len(view.shape)
        size = view.shape[axis]
        begin = min(max(start + size if start < 0 else start, 0), size)
        view = view.cut(axis, begin, shape[axis], step)
    return view
