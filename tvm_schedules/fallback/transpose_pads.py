"""ConvTranspose with ``output_shape``: the pads that follow from it, which TVM's front end does not compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm_schedules.frontend.constant_folding import fixed_shape

if TYPE_CHECKING:
    import onnx

__all__ = ["with_pads"]


def with_pads(model: onnx.ModelProto, types: dict[str, onnx.TypeProto]) -> onnx.ModelProto:
    """Puts ``pads`` in place of ``output_shape`` where they are not negative.

    Args:
        model: The model; it is not changed.
        types: Types of its values.
    """
    import onnx
    from onnx import helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in result.graph.node:
        if node.op_type != "ConvTranspose" or not any(a.name == "output_shape" for a in node.attribute):
            continue
        data, weight = (shapes.get(name) or fixed_shape(types.get(name)) for name in node.input[:2])
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        pads = _pads(given, data[2:], weight[2:]) if data and weight else None
        if pads is None:
            continue  # who compares shapes refuses it
        kept = [a for a in node.attribute if a.name not in ("output_shape", "auto_pad", "pads")]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("pads", pads)])
    return result


def _pads(given: dict[str, Any], sizes: tuple[int, ...], kernel: tuple[int, ...]) -> list[int] | None:
    rank = len(sizes)
    strides, dilations = (given.get(name, [1] * rank) for name in ("strides", "dilations"))
    more = given.get("output_padding", [0] * rank)
    wanted = given["output_shape"][-rank:]
    total = [
        s * (n - 1) + extra + (k - 1) * d + 1 - out
        for n, k, s, d, extra, out in zip(sizes, kernel, strides, dilations, more, wanted, strict=True)
    ]
    if min(total) < 0:
        return None
    half = [t // 2 if given.get("auto_pad") == b"SAME_UPPER" else t - t // 2 for t in total]
    return [*half, *(t - h for t, h in zip(total, half, strict=True))]
