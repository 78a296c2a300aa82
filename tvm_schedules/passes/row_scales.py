"""Finds activations that are rounded with a scale of every row's own, which a network computes as it runs.

    scale = 127 / clip(max(|x|), 1e-5)        one number a row
    y = clip(round(x * scale), -128, 127) / scale W

This is how b1.58 models are trained ("The Era of 1-bit LLMs", 2024). A scale of a row is a factor of the row's results
too, so that the layer reads integers, as with fixed scales::

    q = QuantizeLinear(x * scale, 1, 128)
    y = (DequantizeLinear(q, 1, 128) W) / scale
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tvm_schedules.ir.graph import Graph, Node, Value
from tvm_schedules.passes.quantized import parameters
from tvm_schedules.passes.weights import as_weight

__all__ = ["run"]

CASTS = frozenset({"int8", "uint8", "int16", "int32", "int64", "float32"})
"""Types that hold the integers of a row, which a cast to them does not change."""


def run(graph: Graph) -> None:
    """Writes roundings to 8 bits as QuantizeLinear, and rows' scales behind the layers that read them, in place."""
    rewriter = _Rewriter(graph)
    for node in list(graph.nodes):
        if node.op in ("MatMul", "Gemm"):
            rewriter.layer(node)
    rewriter.finish()


class _Rewriter:
    """Makes the nodes that come before and after those of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.producers = graph, graph.producers()
        self.instead: dict[int, list[Node]] = {}
        self.rounded: dict[str, str] = {}

    def layer(self, node: Node) -> None:
        """Takes a product with a constant weight, if its rows are integers, with a scale or without one."""
        x = node.inputs[0]
        plain = not node.attrs.get("transA", 0) and {node.attrs.get(name, 1.0) for name in ("alpha", "beta")} == {1.0}
        if x not in self.graph.values or not plain:
            return
        scaling = self._scaling(x)
        codes = self._codes(scaling.inputs[0] if scaling else x)
        axis = 0 if node.op == "Gemm" and node.attrs.get("transB", 0) else 1
        if codes is None or as_weight(self.graph, node.inputs[1], axis) is None:
            return
        product = Node(node.name, node.op, [codes, *node.inputs[1:]], list(node.outputs), node.attrs)
        self.instead[id(node)] = [product] if scaling is None else self._scaled(product, scaling)

    def _scaled(self, product: Node, scaling: Node) -> list[Node]:
        """A product, what its rows are multiplied by behind it, and then its bias."""
        nodes, out = [replace(product, inputs=product.inputs[:2])], product.outputs[0]
        later = [
            ("rows", scaling.op, scaling.inputs[1]),
            *(("bias", "Add", name) for name in product.inputs[2:] if name),
        ]
        for what, op, other in later:
            early = self._value(f"{out}.{what}", out, "float32")
            nodes[-1].outputs = [early]
            nodes.append(Node(f"{product.name}/{what}", op, [early, other], [out]))
        return nodes

    def finish(self) -> None:
        """Puts the new nodes in the places of the old ones."""
        self.graph.nodes = [made for node in self.graph.nodes for made in self.instead.get(id(node), [node])]
        self.graph.prune()

    def _scaling(self, name: str) -> Node | None:
        """The product or quotient with one number a row that a tensor is, the rows first."""
        node = self.producers.get(name)
        if node is None or node.op not in ("Mul", "Div"):
            return None
        shape = self.graph.values[name].shape
        for rows, scale in (node.inputs, node.inputs[::-1]):
            if any(one not in self.graph.values or self.graph.values[one].dtype != "float32" for one in (rows, scale)):
                continue
            one_a_row = len(shape) > 1 and shape[-1] > 1 and self.graph.values[scale].shape == (*shape[:-1], 1)
            if one_a_row and self.graph.values[rows].shape == shape:
                return replace(node, inputs=[rows, scale])
            if node.op == "Div":
                break
        return None

    def _codes(self, name: str) -> str | None:
        """The dequantized tensor with a scale of one that a tensor of integers is; None where it may be another one."""
        if name in self.rounded:
            return self.rounded[name]
        last = self.producers.get(name)
        if last is None or self.graph.values[name].dtype != "float32":
            return None
        if last.op == "DequantizeLinear":
            before = self.producers.get(last.inputs[0])
            known = before is not None and before.op == "QuantizeLinear" and parameters(self.graph, last) is not None
            return name if known else None
        source, rounds, bounds = name, False, None
        while (node := self.producers.get(source)) is not None:
            if node.op == "Round" and not rounds:
                rounds = True
            elif node.op == "Clip" and bounds is None:
                bounds = _bounds(self.graph, node)
            elif node.op != "Cast" or rounds or bounds or self.graph.values[source].dtype not in CASTS:
                break
            source = node.inputs[0]
            if rounds and bounds:
                break
        if not rounds or bounds is None or self.graph.values[source].dtype != "float32":
            return None
        self.rounded[name] = self._quantized(name, last, source, bounds)
        return self.rounded[name]

    def _quantized(self, name: str, last: Node, source: str, bounds: tuple[int, int]) -> str:
        """Rounds a tensor by QuantizeLinear and DequantizeLinear behind the node that rounded it."""
        zero = 128 if bounds[0] < 0 else 0
        one = self._constant(f"{name}.scale", np.array(1, np.float32))
        point = self._constant(f"{name}.zero_point", np.array(zero, np.uint8))
        nodes = [last]
        if bounds != (-zero, 255 - zero):
            ends = [self._constant(f"{name}.bound", np.array(bound, np.float32)) for bound in bounds]
            clipped = self._value(f"{name}.clipped", name, "float32")
            nodes.append(Node(f"{last.name}/clip", "Clip", [source, *ends], [clipped]))
            source = clipped
        codes, back = self._value(f"{name}.codes", name, "uint8"), self._value(f"{name}.rounded", name, "float32")
        nodes.append(Node(f"{last.name}/quantize", "QuantizeLinear", [source, one, point], [codes]))
        nodes.append(Node(f"{last.name}/dequantize", "DequantizeLinear", [codes, one, point], [back]))
        self.instead[id(last)] = nodes
        return back

    def _unused(self, name: str) -> str:
        while name in self.graph.values or name in self.graph.constants:
            name += "'"
        return name

    def _value(self, name: str, like: str, dtype: str) -> str:
        """A new tensor of the shape of another one."""
        name = self._unused(name)
        self.graph.values[name] = Value(name, self.graph.values[like].shape, dtype)
        return name

    def _constant(self, name: str, array: np.ndarray) -> str:
        name = self._unused(name)
        self.graph.constants[name] = array
        return name


def _bounds(graph: Graph, node: Node) -> tuple[int, int] | None:
    """The bounds of a Clip that leaves integers of 8 bits; None of any other."""
    arrays = [graph.constants.get(name) for name in node.inputs[1:3]]
    found = [float(array.ravel()[0]) for array in arrays if array is not None and array.size == 1]
    if len(found) != 2 or not all(bound.is_integer() for bound in found):
        return None
    low, high = (int(bound) for bound in found)
    return (low, high) if 0 <= low < high <= 255 or -128 <= low < high <= 127 else None
