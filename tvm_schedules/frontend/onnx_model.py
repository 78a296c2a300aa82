"""Small operations on ONNX models: fix open shapes, fold constant weights, remove quantization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.common.near import meant
from tvm_schedules.common.reading import reading_model
from tvm_schedules.errors import InputError, ShapeError
from tvm_schedules.frontend.constant_folding import read_by

Array = npt.NDArray[Any]


def _to_array(tensor: Any) -> Array:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor))


@reading_model()
def signature(model: Any, which: str) -> list[dict[str, Any]]:
    """Names, shapes and dtypes of the graph's ``input`` or ``output``; an open size is its name or None."""
    import onnx

    weights = {tensor.name for tensor in model.graph.initializer}
    result = []
    for value in getattr(model.graph, which):
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        shape = [
            int(dim.dim_value) if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor.shape.dim
        ]
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
        result.append({"name": value.name, "shape": shape, "dtype": dtype})
    return result


@reading_model()
def fix_shapes(model: Any, shapes: Mapping[str, Sequence[int]] | None) -> None:
    """Put sizes in place of the open dimensions of the inputs, in place; same-named sizes of other tensors follow.

    Args:
        model: ``onnx.ModelProto``.
        shapes: Shape of every input that has open sizes; its leading size may be larger than the model's when it counts
            samples: an open first dimension becomes 1 unless the shape says otherwise.

    Raises:
        ShapeError: An input has open sizes and no shape is given, or the given shape does not fit.
    """
    shapes = dict(shapes or {})
    names = {entry["name"] for entry in signature(model, "input")}
    for name in shapes:
        if name not in names:
            raise ShapeError(f"shape given for {name!r}, but the model's inputs are {', '.join(sorted(names))}")
    bound: dict[str, int] = {}
    for value in model.graph.input:
        if value.name not in names:
            continue
        dims = value.type.tensor_type.shape.dim
        given = shapes.get(value.name)
        if given is not None and len(given) != len(dims):
            raise ShapeError(f"input {value.name!r} has {len(dims)} dimensions, got shape {list(given)}")
        for axis, dim in enumerate(dims):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                if given is not None and given[axis] != dim.dim_value:
                    raise ShapeError(
                        f"input {value.name!r} has size {dim.dim_value} in dimension {axis}, got shape {list(given)}"
                    )
                continue
            if given is None:
                raise ShapeError(
                    f"input {value.name!r} has no fixed size in dimension {axis} ({dim.dim_param or 'unnamed'}); "
                    "give samples or an input shape"
                )
            size = int(given[axis])
            name = dim.dim_param if dim.dim_param != "?" else ""  # what some exporters call every size
            if size < 1 or bound.get(name, size) != size:
                raise ShapeError(
                    f"size {name or axis!r} of input {value.name!r} must be {bound.get(name, 'at least 1')}, got {size}"
                )
            if name:
                bound[name] = size
            dim.dim_value = size
    for value in [*model.graph.output, *model.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in bound:
                dim.dim_value = bound[dim.dim_param]
            elif dim.dim_value < 0:  # an open size, as some exporters write it
                dim.ClearField("dim_value")


@reading_model()
def fix_inputs(model: Any, values: Mapping[str, Any]) -> None:
    """Make inputs constants, in place.

    Args:
        model: ``onnx.ModelProto``.
        values: Arrays by the names of inputs; where a size is open in the model, the array may have any.

    Raises:
        InputError: There is no such input, or it has another type or shape.
    """
    from onnx import numpy_helper

    entries = {entry["name"]: entry for entry in signature(model, "input")}
    for name, value in values.items():
        if name not in entries:
            raise InputError(f"a constant is given for {name!r}, but the model's inputs are {', '.join(entries)}")
        dtype, shape = np.dtype(entries[name]["dtype"]), entries[name]["shape"]
        array = np.asarray(value)
        fits = array.ndim == len(shape) and all(
            not isinstance(size, int) or size <= 0 or size == own for size, own in zip(shape, array.shape, strict=True)
        )
        if not fits or not np.can_cast(array.dtype, dtype, "same_kind"):
            raise InputError(
                f"the constant for input {name!r} must be {dtype} of shape {shape}, got {array.dtype} of shape "
                f"{list(array.shape)}"
            )
        model.graph.initializer.append(numpy_helper.from_array(np.array(array, dtype, order="C"), name))
        model.graph.input.remove(next(entry for entry in model.graph.input if entry.name == name))


@reading_model()
def keep_outputs(model: Any, names: Sequence[str]) -> None:
    """Cut a model off behind some of its tensors, which become its outputs, in place.

    Inputs that these do not depend on go too.

    Args:
        model: ``onnx.ModelProto``.
        names: Tensors that nodes of its graph make, in the order of the new outputs.

    Raises:
        InputError: There is no such tensor, or it is named twice.
    """
    import onnx

    graph = model.graph
    made = [name for node in graph.node for name in node.output if name]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InputError(f"outputs must be different tensors, got {name!r} twice")
        if name not in made:
            raise InputError(f"outputs must be tensors that a node makes, got {name!r}{meant(name, made)}")
    typed = onnx.shape_inference.infer_shapes(model).graph
    values = {value.name: value for value in (*typed.value_info, *typed.output)}
    needed, kept = set(names), []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(read_by(node))
    for field, entries in (
        ("node", kept[::-1]),
        ("input", [value for value in graph.input if value.name in needed]),
        ("initializer", [tensor for tensor in graph.initializer if tensor.name in needed]),
        ("output", [values.get(name) or onnx.helper.make_empty_tensor_value_info(name) for name in names]),
    ):
        copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)


def attribute(node: Any, name: str, default: Any) -> Any:
    """An attribute of a node, or ``default``."""
    import onnx

    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


@reading_model()
def constant_arrays(model: Any) -> dict[str, Array]:
    """Every tensor that does not depend on an input: initializers, and what DequantizeLinear and Add make of them.

    Returns:
        Name -> value. 2-bit and 4-bit integers come as int8 or uint8.
    """
    values: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        array = _to_array(tensor)
        if array.dtype.name in ("int2", "int4"):
            array = array.astype(np.int8)
        elif array.dtype.name in ("uint2", "uint4"):
            array = array.astype(np.uint8)
        values[tensor.name] = array
    for node in model.graph.node:
        if node.op_type == "Constant":
            values[node.output[0]] = np.asarray(_constant(node))
        elif node.input and all(name in values for name in node.input if name):
            arguments = [values[name] if name else None for name in node.input]
            result = _fold(node, arguments)
            if result is not None:
                values[node.output[0]] = result
    return values


def _constant(node: Any) -> Any:
    value = attribute(node, "value", None)
    if value is not None:
        return _to_array(value)
    for name, dtype in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64)):
        value = attribute(node, name, None)
        if value is not None:
            return np.asarray(value, dtype)
    return np.asarray(attribute(node, "value_ints", []), np.int64)


def _fold(node: Any, arguments: list[Any]) -> Array | None:
    """The value of a node that is common between a stored and a used weight, or None."""
    if node.op_type == "DequantizeLinear" and not attribute(node, "block_size", 0):
        x, scale = arguments[0], arguments[1]
        zero = arguments[2] if len(arguments) > 2 and arguments[2] is not None else np.zeros_like(scale, x.dtype)
        if scale.ndim == 1 and scale.size > 1:
            axis = attribute(node, "axis", 1)
            if not -x.ndim <= axis < x.ndim or scale.size != x.shape[axis] or zero.size != scale.size:
                return None
            shape = [1] * x.ndim
            shape[attribute(node, "axis", 1)] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        elif scale.ndim == 1:
            scale, zero = scale.reshape(()), zero.reshape(())
        return np.asarray((x.astype(np.int32) - zero.astype(np.int32)).astype(scale.dtype) * scale)
    if node.op_type == "Transpose":
        return np.transpose(arguments[0], attribute(node, "perm", None))
    if node.op_type == "Identity":
        return np.asarray(arguments[0])
    if node.op_type == "Add":
        a, b = arguments
        # Terms of a weight have its shape; a sum that is larger than its operands is no weight.
        return np.asarray(a + b) if np.broadcast(a, b).size <= a.size + b.size else None
    return None


@reading_model()
def quantized_tensors(model: Any) -> dict[str, tuple[float, int, str]]:
    """Activations that pass a QuantizeLinear: dequantized tensor -> (scale, zero point, dtype of the stored value)."""
    constants = constant_arrays(model)
    stored: dict[str, tuple[float, int, str]] = {}
    result = {}
    for node in model.graph.node:
        scale = constants.get(node.input[1]) if len(node.input) > 1 else None
        if scale is None or scale.size != 1:
            continue
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if node.op_type == "QuantizeLinear":
            stored[node.output[0]] = (
                float(scale.reshape(())),
                int(zero.reshape(())) if zero is not None else 0,
                zero.dtype.name if zero is not None else "uint8",
            )
        elif node.op_type == "DequantizeLinear" and node.input[0] in stored:
            result[node.output[0]] = stored[node.input[0]]
    return result


@reading_model()
def float_model(model: Any, strip_activations: bool = True) -> Any:
    """The same network with float32 weights, as a user without ternary kernels would run it.

    Args:
        model: ``onnx.ModelProto``; not changed.
        strip_activations: Also remove QuantizeLinear/DequantizeLinear pairs on activations.

    Returns:
        A new ``onnx.ModelProto`` in which every constant expression is an initializer.
    """
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = constant_arrays(model)
    rename: dict[str, str] = {}
    quantized = quantized_tensors(model) if strip_activations else {}
    producers = {name: node for node in model.graph.node for name in node.output}
    for name in quantized:
        rename[name] = producers[producers[name].input[0]].input[0]
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        if all(name in constants for name in node.output):
            continue
        if node.output[0] in rename or (
            node.op_type == "QuantizeLinear" and strip_activations and _only_dequantized(model, node)
        ):
            continue
        for index, name in enumerate(node.input):
            while name in rename:
                name = rename[name]
            node.input[index] = name
        kept.append(node)
    for name in outputs & set(rename):
        source = name
        while source in rename:
            source = rename[source]
        kept.append(onnx.helper.make_node("Identity", [source], [name], name=f"{name}/identity"))
    kept = _fold_biases(kept, constants, outputs)
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    del graph.initializer[:]
    for name in sorted(used & set(constants)):
        graph.initializer.append(numpy_helper.from_array(np.asarray(constants[name], order="C"), name))
    produced = used | {name for node in kept for name in node.output}
    infos = [value for value in graph.value_info if value.name in produced and value.name not in constants]
    del graph.value_info[:]
    graph.value_info.extend(infos)
    return result


def _fold_biases(nodes: list[Any], constants: dict[str, Array], outputs: set[str]) -> list[Any]:
    """Puts a constant that is added to each channel of a convolution without bias into the convolution.

    Files of this package keep the two apart for onnxruntime's sake; a user's float network would not.
    """
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    dropped: set[int] = set()
    for node in nodes:
        after = readers.get(node.output[0], [])
        if node.op_type != "Conv" or len(node.input) > 2 or len(after) != 1 or node.output[0] in outputs:
            continue
        add = after[0]
        bias = next((name for name in add.input if name in constants), None) if add.op_type == "Add" else None
        if bias is None or constants[bias].ndim < 3 or constants[bias].size != constants[bias].shape[1]:
            continue
        constants[bias] = constants[bias].ravel()
        node.input.append(bias)
        node.output[0] = add.output[0]
        dropped.add(id(add))
    return [node for node in nodes if id(node) not in dropped]


def _only_dequantized(model: Any, node: Any) -> bool:
    users = [user for user in model.graph.node if node.output[0] in user.input]
    return bool(users) and all(user.op_type == "DequantizeLinear" for user in users)
