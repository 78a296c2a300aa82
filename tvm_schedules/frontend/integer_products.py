"""Products of integers (``MatMulInteger`` and its relatives), as what they are by definition, in real numbers.

onnxruntime's dynamic quantization makes such files: an input's scale and zero point are found as the network runs. A
zero point is a number that all inputs share, so that a product with a constant weight is one of bytes, and the zero
point times the sums of the weight's columns is taken away behind it::

    (A - a) (B - b)  =  A (B - b) - a * sum(B - b)

A node stays as it is where it is not known how many elements a computed zero point has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tvm_schedules.frontend.operator_parts import Parts

__all__ = ["OPERATORS"]


OWN = "com.microsoft"


def _rounding(parts: Parts, x: str, outputs: Sequence[str | None] = (None, None, None)) -> tuple[str, str, str]:
    """Bytes of a real tensor, their scale and their zero point, as DynamicQuantizeLinear finds them."""
    zero, top = (parts.constant(np.float32(value)) for value in (0, 255))
    low = parts.add("Min", [parts.add("ReduceMin", [x], keepdims=0), zero])
    high = parts.add("Max", [parts.add("ReduceMax", [x], keepdims=0), zero])
    reach = parts.add("Div", [parts.add("Sub", [high, low]), top])
    nothing = parts.add("Equal", [reach, zero])
    scale = parts.add("Where", [nothing, parts.constant(np.float32(1)), reach], outputs[1])
    middle = parts.add("Clip", [parts.add("Round", [parts.add("Div", [parts.add("Neg", [low]), scale])]), zero, top])
    shift = parts.cast(middle, np.uint8, outputs[2])
    moved = parts.add("Add", [parts.add("Round", [parts.add("Div", [x, scale])]), middle])
    one = [parts.constant(np.float32(1)), parts.constant(np.uint8(0))]
    return parts.add("QuantizeLinear", [moved, *one], outputs[0]), scale, shift


def _quantize(parts: Parts) -> None:
    """DynamicQuantizeLinear."""
    names = [name or None for name in parts.node.output]
    _rounding(parts, parts.inputs[0], [*names, None, None][:3])


def _shifted(parts: Parts, name: str, zero: str, axis: int | None = None) -> str:
    """Integers less their zero point, as float32; a zero point with several elements runs along an axis."""
    value = parts.cast(name, np.float32)
    if not zero:
        return value
    other = parts.cast(zero, np.float32)
    if axis is not None:
        other = parts.add("Unsqueeze", [other, parts.constant(np.array([axis], np.int64))])
    return parts.add("Sub", [value, other])


def _real_product(parts: Parts, a: str, b: str, first: str, second: str) -> str:
    """``(A - first) (B - second)`` of integers as float32."""
    weight, shift = parts.constants.get(b), parts.constants.get(second) if second else np.int8(0)
    if weight is None or weight.ndim != 2 or shift is None or parts.axes(first):
        rows = -1 if parts.axes(first) == 1 else None
        return parts.add("MatMul", [_shifted(parts, a, first, rows), _shifted(parts, b, second)])
    columns = (weight.sum(0, dtype=np.int64) - len(weight) * shift.astype(np.int64)).astype(np.float32)
    steps = np.ones(shift.shape, np.float32)  # as many as there are zero points
    bytes_of_a = parts.add("DequantizeLinear", [a, parts.constant(np.float32(1))])
    real = parts.add("DequantizeLinear", [b, parts.constant(steps), second], axis=1)
    found = parts.add("MatMul", [bytes_of_a, real])
    if not first:
        return found
    return parts.add("Sub", [found, parts.add("Mul", [parts.cast(first, np.float32), parts.constant(columns)])])


def _product(parts: Parts) -> None:
    """MatMulInteger."""
    if not parts.known(*parts.inputs[2:4]):
        return
    parts.cast(_real_product(parts, *parts.inputs[:4]), np.int32, parts.node.output[0])


def _scaled(parts: Parts, integers: str, scales: list[str], bias: str) -> None:
    """Integers times scales, plus a bias where there is one."""
    out, scale = parts.node.output[0], parts.add("Mul", scales)
    value = parts.add("Mul", [integers, scale], None if bias else out)
    if bias:
        parts.add("Add", [value, bias], out)


def _product_to_floats(parts: Parts) -> None:
    """MatMulIntegerToFloat."""
    a, b, scale, other, first, second, bias = parts.inputs[:7]
    if not parts.known(first, second):
        return
    _scaled(parts, _real_product(parts, a, b, first, second), [scale, other], bias)


def _rounded_product(parts: Parts) -> None:
    """DynamicQuantizeMatMul."""
    a, b, other, second, bias = parts.inputs[:5]
    if not parts.known(second):
        return
    integers, scale, first = _rounding(parts, a)
    _scaled(parts, _real_product(parts, integers, b, first, second), [scale, other], bias)


def _convolution(parts: Parts) -> None:
    """ConvInteger; what lies around the image is zero points, zeros after these are taken away."""
    x, weight, first, second = parts.inputs[:4]
    if not parts.known(weight, first, second):
        return
    if parts.axes(second):  # one for every output channel
        channels = parts.constants[second].reshape(-1, *[1] * (parts.constants[weight].ndim - 1))
        second = parts.constant(channels)
    operands = [_shifted(parts, x, first), _shifted(parts, weight, second)]
    parts.cast(parts.add("Conv", operands, **parts.attributes()), np.int32, parts.node.output[0])


OPERATORS: Mapping[tuple[str, str], Callable[[Parts], None]] = {
    ("", "DynamicQuantizeLinear"): _quantize,
    ("", "MatMulInteger"): _product,
    ("", "ConvInteger"): _convolution,
    (OWN, "DynamicQuantizeMatMul"): _rounded_product,
    (OWN, "MatMulIntegerToFloat"): _product_to_floats,
}
"""What writes an operator with others, by its domain and name."""
