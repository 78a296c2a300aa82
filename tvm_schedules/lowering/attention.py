"""Finds attention in a graph, as one operator or as the products and the softmax that it is made of.

What networks do to the three tensors before it (reshapes, transposes, slices of one that has all three) and to the
result only says where matrices lie: the kernel reads and writes them there.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np

from tvm_schedules.ir.graph import Fused, Graph, Node
from tvm_schedules.ir.view import View
from tvm_schedules.lowering.attention_node import AttentionWriter, Found, Mask, Scores
from tvm_schedules.lowering.tracing import RESHAPES, Tracer

__all__ = ["with_attention"]

FEWEST_ROWS = 4
"""Queries from which it pays to arrange keys and values for the products."""

LOW = -1e4
"""What is at most this stands for minus infinity: scores are above it."""


def with_attention(graph: Graph, fewest_rows: int = FEWEST_ROWS) -> Graph:
    """Writes what is attention as :class:`~tvm_schedules.ir.graph.Attention`.

    Args:
        graph: A fused graph; it is not changed.
        fewest_rows: Queries from which it is.
    """
    own = replace(graph, values=dict(graph.values), constants=dict(graph.constants))
    finder = _Finder(own, fewest_rows)
    made: dict[int, list[Node]] = {}
    gone: set[int] = set()
    for node in graph.nodes:
        finder.writer.before = []
        found = finder.find(node) if node.op in ("Softmax", "Attention") and not isinstance(node, Fused) else None
        if found is not None:
            made[id(found.nodes[-1])] = [*finder.writer.before, found.attention]
            gone.update(id(one) for one in found.nodes)
    if not made:
        return graph
    nodes: list[Node] = []
    for node in graph.nodes:
        kept = [] if id(node) in gone else [node]
        nodes += made.get(id(node), kept)
    result = replace(own, nodes=nodes)
    result.prune()
    return result


class _Finder:
    """Looks for attention around nodes of one graph; its values and constants get those of masks that are made."""

    def __init__(self, graph: Graph, fewest_rows: int) -> None:
        self.graph, self.readers, self.producers = graph, graph.consumers(), graph.producers()
        self.tracer, self.writer = Tracer(graph), AttentionWriter(graph, fewest_rows)

    def find(self, node: Node) -> Found | None:
        """The attention that a Softmax or an Attention is part of."""
        return self._operator(node) if node.op == "Attention" else self._softmax(node)

    # -- the operator --------------------------------------------------------------------------------------------------
    def _operator(self, node: Node) -> Found | None:
        shapes, attrs = self.graph.values, node.attrs
        inputs = [*node.inputs, *[""] * 4][:4]
        plain = not any(node.inputs[4:]) and not any(node.outputs[1:]) and not attrs.get("softcap", 0.0)
        if not plain or any(name not in shapes for name in inputs[:3]):
            return None
        if attrs.get("is_causal", 0) and shapes[inputs[0]].shape[-2] != shapes[inputs[1]].shape[-2]:
            return None
        heads = [attrs.get("q_num_heads"), attrs.get("kv_num_heads"), attrs.get("kv_num_heads")]
        views: list[View] = []
        names: list[str] = []
        factors = 1.0
        for name, count in zip(inputs[:3], heads, strict=True):
            source, view, factor = self.tracer.trace(name)
            if len(view.shape) == 3:
                batch, length, width = view.shape
                split = view.reshaped((batch, length, count, width // count)) if count else None
                if split is None:
                    return None
                view = split.transposed((0, 2, 1, 3))
            if factor != 1.0 and len(views) == 2:  # a factor of the values is none of the scores
                source, view = name, View.whole(shapes[name].shape)
                factor = 1.0
            names.append(source)
            views.append(view)
            factors *= factor
        queries, keys = views[0].shape[1], views[1].shape[1]
        if len(shapes[node.outputs[0]].shape) not in (3, 4) or queries % keys:
            return None
        lead = (views[0].shape[0], keys, queries // keys)
        grouped = [views[0].reshaped((*lead, *views[0].shape[2:]))]
        for view in views[1:]:
            inner = View((*view.shape[:2], 1, *view.shape[2:]), (*view.strides[:2], 0, *view.strides[2:]), view.offset)
            grouped.append(inner.broadcast((*lead, *view.shape[2:])))
        q, k, v = grouped
        if q is None or k is None or v is None:
            return None
        scale = float(attrs.get("scale", 0.0) or 1 / sqrt(q.shape[-1]))
        square = (lead[0], queries, q.shape[-2], k.shape[-2])
        masks = [Mask(inputs[3], square)] if inputs[3] else []
        if attrs.get("is_causal", 0):
            future = np.triu(np.full(square[-2:], -np.inf, np.float32), 1)
            masks.append(Mask(self.writer.constant(f"{node.name}/causal", future), square))
        rank4 = len(shapes[node.outputs[0]].shape) == 4
        order = (0, 1, 2, 3) if rank4 else (0, 2, 1, 3)  # with three axes, heads lie side by side in a row
        scores = Scores(node, factors * scale, masks, [])
        return self.writer.made(node, node, scores, (names, (q, k, v)), order)

    # -- products and a softmax ----------------------------------------------------------------------------------------
    def _softmax(self, node: Node) -> Found | None:
        shape = self.graph.values[node.outputs[0]].shape if node.outputs[0] in self.graph.values else ()
        if len(shape) < 3 or node.attrs.get("axis", -1) not in (-1, len(shape) - 1) or self.graph.opset < 13:
            return None
        empty, after = self._without_nan(node)
        while (last := self.writer.only_reader(after[-1].outputs[0])) is not None and last.op in RESHAPES:
            if isinstance(last, Fused) or self.graph.values[last.outputs[0]].shape[-2:] != shape[-2:]:
                return None
            after.append(last)
        if last is None or last.op != "MatMul" or isinstance(last, Fused) or last.inputs[0] != after[-1].outputs[0]:
            return None
        scores = self._scores(node.inputs[0], shape)
        if scores is None:
            return None
        sources = (*scores.product.inputs[:2], last.inputs[1])
        if any(name not in self.graph.values for name in sources):  # constants, as learned queries are
            return None
        products = [self.graph.values[name].shape for name in (scores.product.outputs[0], last.inputs[0])]
        traced = [self.tracer.trace(name) for name in sources]
        if traced[2][2] != 1.0:
            traced[2] = sources[2], View.whole(self.graph.values[sources[2]].shape), 1.0
        wholes = [one[1] for one in traced]
        try:
            wide = [
                wholes[0].broadcast((*products[0][:-1], wholes[0].shape[-1])),
                wholes[1].broadcast((*products[0][:-2], wholes[1].shape[-2], shape[-1])),
                wholes[2].broadcast((*products[1][:-2], *wholes[2].shape[-2:])),
            ]
        except (ValueError, IndexError):
            return None
        q, k, v = (view.reshaped((*shape[:-2], *view.shape[-2:])) for view in wide)
        if q is None or k is None or v is None:
            return None
        rank = len(shape)
        turned = k.transposed((*range(rank - 2), rank - 1, rank - 2))
        scores.factor *= traced[0][2] * traced[1][2]
        scores.nodes += after
        scores.empty = empty
        return self.writer.made(last, scores.product, scores, ([t[0] for t in traced], (q, turned, v)), None)

    def _without_nan(self, softmax: Node) -> tuple[bool, list[Node]]:
        """Whether NaN become zeros behind a softmax, and the nodes up to there."""
        name = softmax.outputs[0]
        after = self.readers.get(name, [])
        if [node.op for node in after] != ["IsNaN", "Where"] or name in self.graph.outputs:
            return False, [softmax]
        test, choice = after
        zero = self.graph.constants.get(choice.inputs[1])
        fits = choice.inputs[::2] == [test.outputs[0], name] and zero is not None and zero.size == 1 and not zero.any()
        alone = self.writer.only_reader(test.outputs[0]) is choice
        same = self.graph.values[choice.outputs[0]].shape == self.graph.values[name].shape
        return (True, [softmax, test, choice]) if fits and alone and same else (False, [softmax])

    def _scores(self, name: str, shape: tuple[int, ...]) -> Scores | None:
        """From the softmax back to the product: factors, masks and reshapes of the leading axes."""
        found = Scores(Node("", "", [], []), 1.0, [], [])
        while True:
            node = self.producers.get(name)
            if node is None or isinstance(node, Fused) or self.writer.only_reader(name) is None:
                return None
            here = self.graph.values[name].shape
            if here[-2:] != shape[-2:]:
                return None
            found.nodes.insert(0, node)
            if node.op == "MatMul":
                found.product = node
                return found
            constant = self.tracer.scalar(node)
            if node.op in ("Mul", "Div") and constant is not None:
                found.factor *= constant[1]
                name = constant[0]
            elif node.op in ("Reshape", "Squeeze", "Unsqueeze"):
                name = node.inputs[0]
                continue
            elif node.op in ("Add", "Where") and found.factor == 1.0:
                masked = self._added(node, here) if node.op == "Add" else self._filled(node, here)
                if masked is None:
                    return None
                name, mask = masked
                found.masks.insert(0, mask)
            else:
                return None
            if self.graph.values[name].shape != here:
                return None

    def _added(self, node: Node, shape: tuple[int, ...]) -> tuple[str, Mask] | None:
        """The scores and the mask that an Add adds up."""
        sides = [one for one in node.inputs if self._leads_to_product(one, shape)]
        if len(sides) != 1:
            return None
        return sides[0], Mask(node.inputs[1 - node.inputs.index(sides[0])], shape)

    def _filled(self, node: Node, shape: tuple[int, ...]) -> tuple[str, Mask] | None:
        """The scores of a Where that gives some of them a number, which no other score is below, and the limit that is.

        ``masked_fill`` of PyTorch: where scores get the lowest number, they are at most that, and elsewhere infinity.
        """
        condition = node.inputs[0]
        for index, scores in ((2, node.inputs[2]), (1, node.inputs[1])):
            low = self.graph.constants.get(node.inputs[3 - index])
            if low is None or low.size != 1 or float(low.ravel()[0]) > LOW or scores in self.graph.constants:
                continue
            lowest = float(low.ravel()[0])
            true, false = (lowest, np.inf) if index == 2 else (np.inf, lowest)
            known, name = self.graph.constants.get(condition), f"{node.name}/limit"
            if known is not None:
                limits = np.where(known, np.float32(true), np.float32(false))
                return scores, Mask(self.writer.constant(name, limits), shape, True)
            return scores, Mask(self.writer.numbers(condition, name, true, false), shape, True)
        return None

    def _leads_to_product(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a tensor is made of a product by operators of one operand (or of a constant one)."""
        for _ in range(8):
            node = self.producers.get(name)
            if node is None or isinstance(node, Fused) or self.graph.values[name].shape[-2:] != shape[-2:]:
                return False
            if node.op == "MatMul":
                return True
            computed = [one for one in node.inputs if one in self.producers]
            if node.op not in ("Mul", "Div", "Add", "Where", "Reshape", "Squeeze", "Unsqueeze") or not computed:
                return False
            name = computed[-1 if node.op == "Where" and computed[-1] != node.inputs[0] else 0]
        return False
