"""Operators on 8-bit tensors with scales (``QLinearConv`` and its relatives), as what they are by definition.

Each is an ordinary operator between DequantizeLinear and QuantizeLinear, which is what the passes know. Files in
onnxruntime's "QOperator" format have them, also some of its own domain ``com.microsoft``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["with_plain_operators"]

OWN = "com.microsoft"
_AXES_SINCE = 13
"""Operator set from which DequantizeLinear knows scales of an axis."""


class _Parts:
    """The nodes in the place of one."""

    def __init__(self, node: Any, ranks: Mapping[str, int]) -> None:
        self.node, self.ranks = node, ranks
        self.nodes: list[Any] = []
        self.inputs = [*node.input, *[""] * 12]

    def add(self, op: str, inputs: list[str], out: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        out = out or f"{self.node.output[0]}/part{len(self.nodes)}"
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        self.nodes.append(helper.make_node(op, inputs, [out], name=f"{self.node.name or out}/{op}", **attributes))
        return out

    def real(self, first: int, axis: int = 0) -> str:
        """The real numbers of the input ``first``, whose scale and zero point are the next ones.

        Args:
            first: Number of the input.
            axis: Where a scale with several elements runs.
        """
        name, scale, zero = self.inputs[first : first + 3]
        axes = {"axis": axis} if self.ranks.get(scale, 0) > 0 else {}
        return self.add("DequantizeLinear", [name, scale, zero], None, **axes)

    def bias(self, name: str, first: int, second: int) -> str:
        """A bias in 32 bits, whose scale is the product of two inputs'."""
        scale = self.add("Mul", [self.inputs[first], self.inputs[second]])
        axes = {"axis": 0} if max(self.ranks.get(self.inputs[one], 0) for one in (first, second)) > 0 else {}
        return self.add("DequantizeLinear", [name, scale], None, **axes)

    def rounded(self, value: str, scale: str, zero: str) -> None:
        """The output: a real tensor in eight bits."""
        self.add("QuantizeLinear", [value, scale, zero], self.node.output[0])

    def attributes(self, *without: str) -> dict[str, Any]:
        from onnx import helper

        return {a.name: helper.get_attribute_value(a) for a in self.node.attribute if a.name not in without}


def _convolution(parts: _Parts) -> None:
    bias = [parts.bias(parts.inputs[8], 1, 4)] if parts.inputs[8] else []
    value = parts.add("Conv", [parts.real(0), parts.real(3), *bias], **parts.attributes())
    parts.rounded(value, parts.inputs[6], parts.inputs[7])


def _product(parts: _Parts) -> None:
    # Scales of several elements are those of rows on the left and of columns on the right.
    value = parts.add("MatMul", [parts.real(0, -2), parts.real(3, -1)])
    parts.rounded(value, parts.inputs[6], parts.inputs[7])


def _gemm(parts: _Parts) -> None:
    given = parts.attributes()
    operands = [parts.real(0), parts.real(3, 0 if given.get("transB", 0) else 1)]
    operands += [parts.bias(parts.inputs[6], 1, 4)] if parts.inputs[6] else []
    if parts.inputs[7]:
        parts.rounded(parts.add("Gemm", operands, **given), parts.inputs[7], parts.inputs[8])
    else:
        parts.add("Gemm", operands, parts.node.output[0], **given)


def _of_two(op: str) -> Callable[[_Parts], None]:
    def write(parts: _Parts) -> None:
        value = parts.add(op, [parts.real(0), parts.real(3)])
        parts.rounded(value, parts.inputs[6], parts.inputs[7])

    return write


def _of_one(op: str, *without: str) -> Callable[[_Parts], None]:
    def write(parts: _Parts) -> None:
        value = parts.add(op, [parts.real(0)], **parts.attributes(*without))
        parts.rounded(value, parts.inputs[3], parts.inputs[4])

    return write


def _concatenation(parts: _Parts) -> None:
    several = [parts.real(first) for first in range(2, len(parts.node.input), 3)]
    parts.rounded(parts.add("Concat", several, **parts.attributes()), parts.inputs[0], parts.inputs[1])


_OPERATORS: Mapping[tuple[str, str], Callable[[_Parts], None]] = {
    ("", "QLinearConv"): _convolution,
    ("", "QLinearMatMul"): _product,
    (OWN, "QGemm"): _gemm,
    (OWN, "QLinearAdd"): _of_two("Add"),
    (OWN, "QLinearMul"): _of_two("Mul"),
    (OWN, "QLinearAveragePool"): _of_one("AveragePool", "channels_last"),
    (OWN, "QLinearConcat"): _concatenation,
    (OWN, "QLinearGlobalAveragePool"): _of_one("GlobalAveragePool", "channels_last"),
    (OWN, "QLinearLeakyRelu"): _of_one("LeakyRelu"),
    (OWN, "QLinearSigmoid"): _of_one("Sigmoid"),
    (OWN, "QLinearSoftmax"): _of_one("Softmax", "opset"),
}
"""By domain and name."""


def with_plain_operators(model: Any) -> Any:
    """Writes operators on 8-bit tensors with ordinary ones.

    Args:
        model: ``onnx.ModelProto``; it is not changed.

    Returns:
        The same model where it has none of them, or is too old for what takes their place.
    """
    import onnx

    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    found = [node for node in model.graph.node if _operator(node)]
    if not found or opset < _AXES_SINCE:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    ranks = {tensor.name: len([n for n in tensor.dims if n != 1]) for tensor in model.graph.initializer}
    nodes: list[Any] = []
    for node in result.graph.node:
        write = _operator(node)
        if write is None or any(one.name == "channels_last" and one.i for one in node.attribute):
            nodes.append(node)
            continue
        parts = _Parts(node, ranks)
        write(parts)
        nodes += parts.nodes
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def _operator(node: Any) -> Callable[[_Parts], None] | None:
    return _OPERATORS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
