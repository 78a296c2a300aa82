"""Nodes that TVM's front end lacks, or reads as something else than ONNX says, written with others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.fallback.compositions import COMPOSED, Composition
from tvm_schedules.frontend.constant_folding import fixed_shape, run_node

if TYPE_CHECKING:
    import onnx

__all__ = ["rewritten"]


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
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    nodes: list[Any] = []
    for node in model.graph.node:
        made = None
        if node.op_type == "IsInf":
            made = _infinite(node, types)
        elif node.op_type == "Resize" and all(name in constants for name in node.input[1:] if name):
            known = {name: numpy_helper.to_array(constants[name]) for name in node.input[1:] if name}
            made = _resize(node, known, types, opset)
        elif node.op_type in COMPOSED:
            parts = Composition(node, types)
            known = {name: numpy_helper.to_array(constants[name]) for name in node.input if name in constants}
            made = (parts.nodes, parts.constants) if COMPOSED[node.op_type](parts, known) else None
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


def _resize(node: Any, known: Mapping[str, np.ndarray], types: Mapping[str, Any], opset: int) -> Made | None:
    """``Resize`` as products with matrices, one for every axis, where TVM's own would be another one.

    TVM takes the ratio of the sizes for the scale, and knows no antialiasing, no leaving out of what is outside and no
    symmetric half pixels. ONNX resizes axis by axis, and so the matrix of an axis is what becomes of the identity.
    """
    from onnx import helper

    shape, out = fixed_shape(types.get(node.input[0])), fixed_shape(types.get(node.output[0]))
    given = _attributes(node)
    if shape is None or out is None or types[node.input[0]].tensor_type.elem_type != 1:
        return None
    rank = len(shape)
    axes = [axis % rank for axis in given.get("axes", range(rank))]
    scales = known.get(node.input[2]) if len(node.input) > 2 else None
    scales = None if scales is None or not scales.size else scales
    if given.get("keep_aspect_ratio_policy", "stretch") != "stretch" or not _misread(given, shape, out, axes, scales):
        return None
    roi = known.get(node.input[1], np.zeros(0, np.float32)) if len(node.input) > 1 else np.zeros(0, np.float32)
    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {}
    source = node.input[0]
    for index, axis in enumerate(axes):
        if shape[axis] == out[axis] and (scales is None or scales[index] == 1) and not roi.size:
            continue
        part = roi[[index, len(axes) + index]] if roi.size else np.array([0, 1], np.float32)
        scale = None if scales is None else float(scales[index])
        matrix = _matrix(given, shape[axis], out[axis], scale, part, opset)
        if matrix is None:
            return None
        name = f"{node.output[0]}/axis{axis}"
        constants[name] = matrix  # inputs by outputs
        perm = [*(i for i in range(rank) if i != axis), axis]
        turned = source
        if axis != rank - 1:
            turned = f"{name}/turned"
            nodes.append(helper.make_node("Transpose", [source], [turned], name=turned, perm=perm))
        source = f"{name}/resized"
        nodes.append(helper.make_node("MatMul", [turned, name], [source], name=source))
        if axis != rank - 1:
            back = [perm.index(i) for i in range(rank)]
            nodes.append(helper.make_node("Transpose", [source], [f"{name}/back"], name=f"{name}/back", perm=back))
            source = f"{name}/back"
    nodes.append(helper.make_node("Identity", [source], list(node.output), name=node.name))
    return nodes, constants


def _misread(
    given: Mapping[str, Any], shape: tuple[int, ...], out: tuple[int, ...], axes: list[int], scales: Any
) -> bool:
    """Whether a Resize is not what TVM makes of its sizes."""
    unknown = ("half_pixel_symmetric", "tf_crop_and_resize")
    if given.get("antialias") or given.get("exclude_outside") or list(axes) != list(range(len(shape))):
        return True
    if given.get("coordinate_transformation_mode", "half_pixel") in unknown:
        return True
    if scales is None:
        return False
    return any(abs(out[axis] - shape[axis] * scales[index]) > 1e-4 for index, axis in enumerate(axes))


def _matrix(
    given: Mapping[str, Any], size: int, out: int, scale: float | None, roi: np.ndarray, opset: int
) -> np.ndarray | None:
    """``[size, out]``: what becomes of every unit vector along an axis; None where onnxruntime does not say."""
    from onnx import helper

    attributes = {name: value for name, value in given.items() if name != "axes"}
    inputs = {"x": np.eye(size, dtype=np.float32).reshape(1, size, 1, size)}
    inputs["roi"] = np.array([0, 0, 0, roi[0], 1, 1, 1, roi[1]], np.float32)
    if scale is not None:
        inputs["to"] = np.array([1, 1, 1, scale], np.float32)
        names = ["x", "roi", "to"]
    else:
        inputs["to"] = np.array([1, size, 1, out], np.int64)
        names = ["x", "roi", "", "to"]
    try:
        (made,) = run_node(helper.make_node("Resize", names, ["y"], **attributes), inputs, {"": opset})
    except Exception:  # the front end says what it makes of the node
        return None
    matrix = np.ascontiguousarray(made.reshape(size, -1))
    # What lies outside of the region has a value of its own: that is no product.
    outside = given.get("coordinate_transformation_mode") == "tf_crop_and_resize" and given.get(
        "extrapolation_value", 0
    )
    return matrix if matrix.shape == (size, out) and not outside else None
