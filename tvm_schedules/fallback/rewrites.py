"""Nodes that TVM's front end lacks, or reads as something else than ONNX says, written with others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.fallback.compositions import COMPOSED, Composition
from tvm_schedules.fallback.resizing import resized, upsampled

if TYPE_CHECKING:
    import onnx

__all__ = ["rewritten"]

_WRITERS = {**COMPOSED, "Resize": resized, "Upsample": upsampled}
"""What writes an operator with others."""


def rewritten(model: onnx.ModelProto, types: Mapping[str, onnx.TypeProto]) -> onnx.ModelProto:
    """Puts other nodes in place of those that TVM does not have, or whose attributes it ignores.

    Args:
        model: The model; it is not changed.
        types: Types of its values.
    """
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[Any] = []
    for node in model.graph.node:
        made = None
        if node.op_type == "IsInf":
            made = _infinite(node, types)
        elif node.op_type in _WRITERS:
            parts = Composition(node, types)
            known = {name: numpy_helper.to_array(constants[name]) for name in node.input if name in constants}
            made = (parts.nodes, parts.constants) if _WRITERS[node.op_type](parts, known) else None
        if made is None:
            nodes.append(node)
            continue
        nodes += made[0]
        result.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in made[1].items())
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


Made = tuple[list[Any], dict[str, np.ndarray]]


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    found = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def _infinite(node: Any, types: Mapping[str, Any]) -> Made | None:
    """``IsInf`` of one sign, which TVM takes for both, as a comparison."""
    from onnx import helper

    given = _attributes(node)
    below, above = given.get("detect_negative", 1), given.get("detect_positive", 1)
    kind = types.get(node.input[0])
    if (below and above) or kind is None:
        return None
    value = np.inf if above else -np.inf if below else np.nan  # which equals nothing
    limit = np.array(value, helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type))
    name = f"{node.output[0]}/limit"
    return [helper.make_node("Equal", [node.input[0], name], list(node.output), name=node.name)], {name: limit}
