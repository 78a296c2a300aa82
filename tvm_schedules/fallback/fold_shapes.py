"""Folds what an ONNX graph of fixed shapes says about its shapes: TVM's front end keeps some of it symbolic."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.frontend.constant_folding import evaluate, fixed_shape

if TYPE_CHECKING:
    import onnx

__all__ = ["fold_shapes", "value_types"]

_LIMIT = 65536  # elements; larger constants are left to TVM
_ROUNDS = 8


def value_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Types of all values that ONNX's shape inference finds."""
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError:
        inferred = model
    values = [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
    types = {value.name: value.type for value in values}
    for tensor in inferred.graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    return types


def fold_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replaces nodes whose result is known, and small, by constants.

    Known are ``Shape`` and ``Size`` of a value with a fixed shape, and whatever is computed from known values alone.
    """
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    sizes = {t.name: math.prod(t.dims) for t in graph.initializer}
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer if sizes[t.name] <= _LIMIT}
    for _ in range(_ROUNDS):
        types = value_types(result)
        kept, folded = [], 0
        for node in graph.node:
            values = _known(node, known, types, result)
            if values is None:
                kept.append(node)
                continue
            folded += 1
            for name, value in zip(node.output, values, strict=False):
                known[name] = value
                graph.initializer.append(
                    numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
                )
        if not folded:
            break
        del graph.node[:]
        graph.node.extend(kept)
        # Types inferred before may be too vague now.
        del graph.value_info[:]
    return result


def _known(
    node: onnx.NodeProto, known: dict[str, np.ndarray], types: dict[str, Any], model: onnx.ModelProto
) -> list[np.ndarray] | None:
    if node.domain in ("", "ai.onnx") and node.op_type in ("Shape", "Size"):
        shape = fixed_shape(types.get(node.input[0]))
        if shape is None:
            return None
        if node.op_type == "Size":
            return [np.array(math.prod(shape), np.int64)]
        slices = {a.name: a.i for a in node.attribute}
        return [np.array(shape[slices.get("start", 0) : slices.get("end", len(shape))], np.int64)]
    if any(name and name not in known for name in node.input):
        return None
    return evaluate(node, known, {o.domain: o.version for o in model.opset_import}, _LIMIT)
