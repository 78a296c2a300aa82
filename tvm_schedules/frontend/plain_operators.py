"""Operators on integers that stand for real numbers, written with ordinary ones, which the passes know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm_schedules.frontend import integer_products, quantized_operators
from tvm_schedules.frontend.operator_parts import Parts

__all__ = ["with_plain_operators"]

_AXES_SINCE = 13
"""Operator set from which DequantizeLinear knows scales of an axis."""

_WRITERS: Mapping[tuple[str, str], Callable[[Parts], None]] = {
    **quantized_operators.OPERATORS,
    **integer_products.OPERATORS,
}


def with_plain_operators(model: Any) -> Any:
    """Writes operators on 8-bit tensors, and products of integers, with ordinary ones.

    Also for onnxruntime, as a reference: its own kernels for them add pairs of products in 16 bits on CPUs with AVX2
    alone, where sums stop at 32767.

    Args:
        model: ``onnx.ModelProto``; it is not changed.

    Returns:
        The same model where it has none of them, or is too old for what takes their place.
    """
    import onnx
    from onnx import numpy_helper

    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    kinds = [("" if node.domain == "ai.onnx" else node.domain, node.op_type) for node in model.graph.node]
    if opset < _AXES_SINCE or not any(kind in _WRITERS for kind in kinds):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    pairs = list(zip(result.graph.node, kinds, strict=True))
    wanted = {name for node, kind in pairs if kind in _WRITERS for name in node.input}
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in wanted}
    single = {node.output[2] for node, kind in pairs if kind[1] == "DynamicQuantizeLinear" and len(node.output) > 2}
    single |= {v.name for v in model.graph.input if all(d.dim_value == 1 for d in v.type.tensor_type.shape.dim)}
    nodes: list[Any] = []
    for node, kind in pairs:
        if kind not in _WRITERS or any(one.name == "channels_last" and one.i for one in node.attribute):
            nodes.append(node)
            continue
        parts = Parts(node, constants, single)
        _WRITERS[kind](parts)
        nodes += parts.nodes or [node]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result
