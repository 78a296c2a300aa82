"""Reads an ONNX file into a :class:`~tvm_schedules.graph.Graph`: checks, shapes, constant folding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelError, ShapeError
from .graph import Graph, Node, Value
from .reading import reading_model

__all__ = ["load_model", "read"]

KEEP = {"DequantizeLinear", "Transpose", "Add"}
"""Operators on constants that stay for :mod:`tvm_schedules.passes.weights` where a small weight is behind them."""


@reading_model()
def load_model(source: Any) -> Any:
    """Loads and checks a model.

    Args:
        source: A path, the bytes of a file, or an ``onnx.ModelProto``.

    Returns:
        The ``onnx.ModelProto``.

    Raises:
        ModelError: The file is missing, is not ONNX, or the checker refuses it.
    """
    import onnx

    if isinstance(source, onnx.ModelProto):
        model = source
    else:
        name = "the given bytes" if isinstance(source, bytes) else str(source)
        try:
            model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(Path(source))
        except FileNotFoundError as error:
            raise ModelError(f"no such ONNX file: {name}") from error
        except Exception as error:
            raise ModelError(f"{name} is not a readable ONNX file ({type(error).__name__}: {error})") from error
    if not model.graph.node or not model.graph.output:
        raise ModelError("the ONNX model has no nodes or no outputs; is the file complete?")
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise ModelError(f"the ONNX checker refuses the model: {str(error).splitlines()[0]}") from error
    return model


def _shape(value: Any) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    if any(not d.HasField("dim_value") or d.dim_value <= 0 for d in dims):
        text = ", ".join(d.dim_param or str(d.dim_value or "?") for d in dims)
        raise ShapeError(
            f"{value.name!r} has the open shape [{text}]; fix it, e.g. by an input shape with a batch of 1"
        )
    return tuple(int(d.dim_value) for d in dims)


def _dtype(value: Any) -> str:
    from onnx import helper

    return np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in attrs.items()}


@reading_model()
def read(model: Any) -> Graph:
    """Makes the graph of a checked model with fixed shapes.

    Args:
        model: ``onnx.ModelProto``.

    Returns:
        A graph whose constants are folded, except the weights in 2 or 8 bits, which keep their ``DequantizeLinear``.

    Raises:
        ModelError: Shape inference fails.
        ShapeError: A shape is open.
    """
    import onnx

    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        raise ModelError(f"shape inference fails: {str(error).splitlines()[0]}") from error
    graph = model.graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    low_bit = {name for name, array in constants.items() if array.dtype.itemsize == 1 and array.ndim > 1}
    inputs = [v for v in graph.input if v.name not in constants]
    values = {v.name: v for v in [*graph.value_info, *graph.input, *graph.output]}
    nodes: list[Node] = []
    weighty = set(low_bit)
    taken: set[str] = set()
    for index, proto in enumerate(graph.node):
        name = proto.name if proto.name and proto.name not in taken else f"{proto.name or proto.op_type}_{index}"
        taken.add(name)
        if proto.op_type == "Constant":
            constants[proto.output[0]] = _constant(proto)
            continue
        reads = [n for n in proto.input if n]
        if reads and all(n in constants or n in weighty for n in reads):
            if proto.op_type in KEEP and any(n in weighty for n in reads):
                weighty.update(proto.output)
            elif all(n in constants for n in reads):
                constants.update(zip(proto.output, _evaluate(proto, constants, model), strict=True))
                continue
        nodes.append(Node(name, proto.op_type, list(proto.input), list(proto.output), _attributes(proto), proto.domain))
    known = {
        n: Value(n, _shape(v), _dtype(v))
        for n, v in values.items()
        if v.type.HasField("tensor_type") and n not in constants
    }
    for node in nodes:
        for name in node.outputs:
            if name and name not in known:
                raise ShapeError(f"the shape of {name!r}, output of {node.op} node {node.name!r}, cannot be inferred")
    opset = next((int(i.version) for i in model.opset_import if i.domain in ("", "ai.onnx")), 25)
    outputs = [v.name for v in graph.output]
    return Graph(graph.name or "network", nodes, known, constants, [v.name for v in inputs], outputs, opset=opset)


def _constant(proto: Any) -> np.ndarray:
    import onnx

    attr = proto.attribute[0]
    if attr.name == "value":
        return onnx.numpy_helper.to_array(attr.t)
    value = onnx.helper.get_attribute_value(attr)
    return np.array(value, np.int64 if attr.name.startswith("value_int") else np.float32)


def _evaluate(proto: Any, constants: dict[str, np.ndarray], model: Any) -> list[np.ndarray]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    names = [n for n in proto.input if n]
    graph = onnx.helper.make_graph(
        [proto],
        "fold",
        [
            onnx.helper.make_tensor_value_info(
                n, onnx.helper.np_dtype_to_tensor_dtype(constants[n].dtype), constants[n].shape
            )
            for n in dict.fromkeys(names)
        ],
        [onnx.helper.make_value_info(n, onnx.TypeProto()) for n in proto.output],
    )
    folded = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return [np.asarray(a) for a in ReferenceEvaluator(folded).run(None, {n: constants[n] for n in names})]
