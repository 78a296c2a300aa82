"""ONNX -> Relax with errors that name the node, and with operators expanded that TVM's front end does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm_schedules import compat
from tvm_schedules.common.names import anonymous
from tvm_schedules.errors import ModelError, ShapeError, UnsupportedOperatorError
from tvm_schedules.fallback.fold_shapes import fold_shapes, value_types
from tvm_schedules.fallback.index_guard import guard
from tvm_schedules.fallback.rewrites import rewritten
from tvm_schedules.fallback.transpose_pads import with_pads
from tvm_schedules.frontend.constant_folding import fixed_shape

if TYPE_CHECKING:
    import onnx

__all__ = ["read"]

_MAX_OPSET = 26
# TVM's "Attention" is onnxruntime's contributed operator of that name, which takes other inputs.
_EXPANDED = frozenset({"Attention"})
_NARROW = frozenset({"INT2", "UINT2", "INT4", "UINT4", "FLOAT4E2M1"})

Tensors = dict[str, tuple[tuple[int, ...], str]]


def read(model: onnx.ModelProto) -> tuple[Any, Tensors, list[str]]:
    """Imports a model.

    Returns:
        The Relax module, the inputs (shape, dtype) and the names of the outputs.

    Raises:
        UnsupportedOperatorError: A node that TVM cannot import, by name.
        ShapeError: An input with an open dimension.
        ModelError: Anything else that is wrong with the model.
    """
    inputs = _inputs(model)
    outputs = [output.name for output in model.graph.output]
    if not outputs:
        raise ModelError("model: the graph has no output, nothing to compute")
    _check_constants(model)
    model = fold_shapes(_in_known_opset(_expand(model)))
    types = value_types(model)
    model = rewritten(model, types)
    types = value_types(model)
    model = guard(with_pads(model, types), types)
    try:
        return _checked(model), inputs, outputs
    except ModelError:
        raise
    except Exception as error:
        raise _explain(model, error) from error


def _checked(model: onnx.ModelProto) -> Any:
    """Imports a model and holds what TVM takes every node's results for against what ONNX does.

    TVM's front end does not know every attribute. Where it ignores one that changes a shape, code would write behind
    the buffers, which are as large as ONNX says.

    Raises:
        UnsupportedOperatorError: They differ; names the node.
    """
    import onnx

    count = len(model.graph.output)
    types = value_types(model)
    inner = [
        (node, name) for node in model.graph.node for name in node.output if fixed_shape(types.get(name)) is not None
    ]
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    wide.graph.output.extend(onnx.helper.make_value_info(name, types[name]) for _, name in inner)
    module = compat.import_onnx(anonymous(wide))
    for (node, name), found in zip(inner, compat.output_tensors(module)[count:], strict=True):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(types[name].tensor_type.elem_type).name
        wanted = fixed_shape(types[name]) or (), dtype
        if found is not None and found != wanted:
            made, said = (f"{kind}{list(dims)}" for dims, kind in (found, wanted))
            raise _unsupported(node, f"TVM makes {made} of it where ONNX says {said}")
    return compat.first_outputs(module, count)


def _in_known_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in the latest operator set that TVM reads, where its operators are the same there but for types.

    Raises:
        ModelError: The installed onnx does not know the operator set.
        UnsupportedOperatorError: An operator is not; names the node.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    for opset in result.opset_import:
        if opset.domain not in ("", "ai.onnx") or opset.version <= _MAX_OPSET:
            continue
        known = max(_MAX_OPSET, onnx.defs.onnx_opset_version())
        if opset.version > known:  # nobody here can tell what its operators are
            raise ModelError(f"model: opset must be at most {known}, got {opset.version}; export with a lower opset")
        for node in result.graph.node:
            if _meaning(node, opset.version) != _meaning(node, _MAX_OPSET):
                raise _unsupported(node, f"it is another one since opset {_MAX_OPSET}; export with that")
        opset.version = _MAX_OPSET
    return result


def _meaning(node: onnx.NodeProto, version: int) -> Any:
    """What ONNX says about a node's operator in an operator set, without the types of its tensors."""
    import onnx

    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return None
    attributes = {name: (str(one.default_value), one.required) for name, one in schema.attributes.items()}
    ends = [[(one.name, one.option) for one in group] for group in (schema.inputs, schema.outputs)]
    return attributes, ends, schema.doc.split()


def _inputs(model: onnx.ModelProto) -> Tensors:
    from onnx import helper

    constants = {tensor.name for tensor in model.graph.initializer}
    found: Tensors = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"model: input {value.name!r} must be a tensor, got {value.type.WhichOneof('value')}")
        shape = []
        for axis, dim in enumerate(tensor.shape.dim):
            if not dim.HasField("dim_value"):
                got = dim.dim_param or "unknown"
                raise ShapeError(
                    f"model: input {value.name!r} needs a fixed shape, axis {axis} is {got!r}; set it before export"
                )
            if dim.dim_value < 1:
                raise ShapeError(f"model: input {value.name!r} axis {axis} must be at least 1, got {dim.dim_value}")
            shape.append(dim.dim_value)
        if not tensor.HasField("shape"):
            raise ShapeError(f"model: input {value.name!r} needs a fixed shape, its rank is not known")
        found[value.name] = tuple(shape), str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return found


def _check_constants(model: onnx.ModelProto) -> None:
    import onnx

    for tensor in model.graph.initializer:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        if name in _NARROW or name == "STRING":
            raise ModelError(f"model: constant {tensor.name!r} has type {name}, which only ternary layers may have")


def _expand(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replaces operators that TVM lacks by the function bodies of ONNX's own definition, where it has one."""
    import onnx

    known = compat.known_onnx_operators()
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for round_ in range(4):
        types: dict[str, onnx.TypeProto] | None = None
        nodes: list[onnx.NodeProto] = []
        for index, node in enumerate(result.graph.node):
            body = None
            if node.domain in ("", "ai.onnx") and (node.op_type not in known or _is_misread(node)):
                types = value_types(result) if types is None else types
                body = _function_body(node, version, types)
            nodes.extend([node] if body is None else _inline(node, body, version, f"{round_}_{index}"))
        if len(nodes) == len(result.graph.node):
            break
        del result.graph.node[:]
        result.graph.node.extend(nodes)
    return result


def _is_misread(node: onnx.NodeProto) -> bool:
    """Whether TVM has an operator of that name, which is not all that ONNX' is."""
    statistics = node.op_type == "LayerNormalization" and any(node.output[1:])
    axes = [entry.i for entry in node.attribute if entry.name == "axis"]  # over all of them, TVM's has no code
    several = node.op_type == "RMSNormalization" and axes not in ([], [-1])
    return node.op_type in _EXPANDED or statistics or several


def _function_body(node: onnx.NodeProto, version: int, types: dict[str, Any]) -> onnx.FunctionProto | None:
    import onnx

    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return None
    text = b""
    if schema.has_context_dependent_function:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= version]
        inputs = [types[n].SerializeToString() if n in types else b"" for n in node.input]
        if versions and all(inputs[i] or not n for i, n in enumerate(node.input)):
            text = schema.get_context_dependent_function_with_opset_version(
                max(versions), node.SerializeToString(), inputs
            )
    elif schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= version]
        text = schema.get_function_with_opset_version(max(versions)) if versions else b""
    if not text:
        return None
    body = onnx.FunctionProto()
    body.ParseFromString(text)
    return body


def _inline(node: onnx.NodeProto, body: onnx.FunctionProto, version: int, unique: str) -> list[onnx.NodeProto]:
    """The nodes of a function body in place of its call."""
    import onnx

    names = {"": ""}
    for formal, actual in zip(body.input, [*node.input, *[""] * len(body.input)], strict=False):
        names[formal] = actual
    for formal, actual in zip(body.output, node.output, strict=False):
        if actual:
            names[formal] = actual
    schema = onnx.defs.get_schema(node.op_type, version, "")
    attributes = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.type}
    attributes.update({a.name: a for a in body.attribute_proto})
    attributes.update({a.name: a for a in node.attribute})
    inlined = []
    for position, inner in enumerate(body.node):
        new = onnx.NodeProto()
        new.CopyFrom(inner)
        new.name = f"{node.name or node.output[0]}/{inner.op_type}{position}"
        for values in (new.input, new.output):
            renamed = [names.setdefault(v, f"{node.output[0]}/{unique}/{v}") for v in values]
            del values[:]
            values.extend(renamed)
        del new.attribute[:]
        for attribute in inner.attribute:
            if not attribute.ref_attr_name:
                new.attribute.append(attribute)
            elif attribute.ref_attr_name in attributes:
                value = onnx.AttributeProto()
                value.CopyFrom(attributes[attribute.ref_attr_name])
                value.name = attribute.name
                new.attribute.append(value)
        inlined.append(new)
    return inlined


def _explain(model: onnx.ModelProto, error: Exception) -> ModelError:
    """Finds the node that the front end refuses, by importing prefixes of the graph."""
    import onnx

    known = compat.known_onnx_operators() | {"If", "Constant"}
    for node in model.graph.node:
        if node.op_type not in known:
            return _unsupported(node, "TVM's ONNX front end does not have it")
    low, high = 0, len(model.graph.node)  # the first `low` nodes import, the first `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        part = onnx.ModelProto()
        part.CopyFrom(model)
        del part.graph.node[middle:]
        del part.graph.output[:]
        part.graph.output.extend(onnx.ValueInfoProto(name=n) for n in part.graph.node[-1].output if n)
        try:
            compat.import_onnx(anonymous(part))
            low = middle
        except Exception as failure:
            high, error = middle, failure
    if not model.graph.node:
        return ModelError(f"model: TVM refuses it: {_last_line(error)}")
    return _unsupported(model.graph.node[high - 1], _last_line(error))


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _unsupported(node: onnx.NodeProto, reason: str) -> UnsupportedOperatorError:
    name = node.name or (node.output[0] if node.output else "?")
    return UnsupportedOperatorError(
        f"node {name!r}: operator {node.op_type} cannot be compiled ({reason}); express it with other operators in the "
        "network's forward, or leave it outside of the exported part"
    )
