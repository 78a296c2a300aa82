"""Operators on 8-bit tensors with scales (``QLinearConv`` and its relatives), as what they are by definition.

Each is an ordinary operator between DequantizeLinear and QuantizeLinear, which is what the passes know. Files in
onnxruntime's "QOperator" format have them, also some of its own domain ``com.microsoft``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm_schedules.frontend.operator_parts import Parts

__all__ = ["OPERATORS"]

OWN = "com.microsoft"


def _bias(parts: Parts, name: str, first: int, second: int) -> str:
    """A bias in 32 bits, whose scale is the product of two inputs'."""
    scale = parts.add("Mul", [parts.inputs[first], parts.inputs[second]])
    several = max(parts.axes(parts.inputs[one]) for one in (first, second)) > 0
    return parts.add("DequantizeLinear", [name, scale], None, **({"axis": 0} if several else {}))


def _rounded(parts: Parts, value: str, scale: str, zero: str) -> None:
    """The output: a real tensor in eight bits."""
    parts.add("QuantizeLinear", [value, scale, zero], parts.node.output[0])


def _convolution(parts: Parts) -> None:
    bias = [_bias(parts, parts.inputs[8], 1, 4)] if parts.inputs[8] else []
    value = parts.add("Conv", [parts.real(0), parts.real(3), *bias], **parts.attributes())
    _rounded(parts, value, parts.inputs[6], parts.inputs[7])


def _product(parts: Parts) -> None:
    # Scales of several elements are those of rows on the left and of columns on the right.
    value = parts.add("MatMul", [parts.real(0, -2), parts.real(3, -1)])
    _rounded(parts, value, parts.inputs[6], parts.inputs[7])


def _gemm(parts: Parts) -> None:
    given = parts.attributes()
    operands = [parts.real(0), parts.real(3, 0 if given.get("transB", 0) else 1)]
    operands += [_bias(parts, parts.inputs[6], 1, 4)] if parts.inputs[6] else []
    if parts.inputs[7]:
        _rounded(parts, parts.add("Gemm", operands, **given), parts.inputs[7], parts.inputs[8])
    else:
        parts.add("Gemm", operands, parts.node.output[0], **given)


def _of_two(op: str) -> Callable[[Parts], None]:
    def write(parts: Parts) -> None:
        value = parts.add(op, [parts.real(0), parts.real(3)])
        _rounded(parts, value, parts.inputs[6], parts.inputs[7])

    return write


def _of_one(op: str, *without: str) -> Callable[[Parts], None]:
    def write(parts: Parts) -> None:
        value = parts.add(op, [parts.real(0)], **parts.attributes(*without))
        _rounded(parts, value, parts.inputs[3], parts.inputs[4])

    return write


def _concatenation(parts: Parts) -> None:
    several = [parts.real(first) for first in range(2, len(parts.node.input), 3)]
    _rounded(parts, parts.add("Concat", several, **parts.attributes()), parts.inputs[0], parts.inputs[1])


OPERATORS: Mapping[tuple[str, str], Callable[[Parts], None]] = {
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
"""What writes an operator with others, by its domain and name."""
