"""Turns an ONNX model into a :class:`~tvm_schedules.ir.graph.Graph`: checks, shapes, constant folding."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from tvm_schedules.common.dtypes import check_type
from tvm_schedules.common.reading import reading_model
from tvm_schedules.errors import ModelError, ShapeError, UnsupportedOperatorError
from tvm_schedules.frontend.branches import taken
from tvm_schedules.frontend.constant_folding import (
    MOST_ELEMENTS,
    Budget,
    evaluate,
    fixed_shape,
    infer,
    read_by,
    result_sizes,
)
from tvm_schedules.frontend.plain_operators import with_plain_operators
from tvm_schedules.ir.graph import Graph, Node, Value

__all__ = ["read"]

KEEP = {"DequantizeLinear", "Transpose", "Add"}
"""Operators on constants that stay for :mod:`tvm_schedules.passes.weights` where a small weight is behind them."""

LONGEST_ORIGIN = 4096
"""Characters of a node's metadata that are looked at."""

_LOOPS = frozenset({"Loop", "Scan", "SequenceMap"})
"""Operators that compute a graph any number of times."""


def _cut(node: Node, makers: Mapping[str, Node]) -> str:
    """How to compile what comes before a node."""
    before = list(dict.fromkeys(name for name in node.inputs if name in makers))
    if not before:
        return ""
    return f": build(..., outputs={before}) or --network-outputs {','.join(before)} compiles what is before it"


def _shape(name: str, kind: Any, makers: Mapping[str, Node]) -> tuple[int, ...]:
    maker = makers.get(name)
    shape = fixed_shape(kind)
    if shape is None or min(shape, default=1) <= 0:
        dims = kind.tensor_type.shape.dim if kind.tensor_type.HasField("shape") else None
        text = "?" if dims is None else ", ".join(d.dim_param or str(d.dim_value or "?") for d in dims)
        if maker is None:
            raise ShapeError(f"{name!r} has the open shape [{text}]; fix it, e.g. by an input shape with a batch of 1")
        raise ShapeError(
            f"{name!r}, output of {maker.op} node {maker.name!r}, has the shape [{text}] although the inputs' are "
            "fixed: it depends on values, or is empty; make it constant in the network's forward, or leave the node "
            f"outside{_cut(maker, makers)}"
        )
    if prod(shape) > MOST_ELEMENTS:
        raise ModelError(f"{name!r} has the shape {list(shape)}: more than {MOST_ELEMENTS:,} elements")
    return shape


def _dtype(kind: Any) -> str:
    from onnx import helper

    return np.dtype(helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)).name


def _origin(proto: Any) -> str:
    """The module of a node by the metadata of PyTorch's exporter: its path and its class, or nothing."""
    said = {entry.key: entry.value[:LONGEST_ORIGIN] for entry in proto.metadata_props}
    try:
        paths, classes = (literal_eval(said[f"pkg.torch.onnx.{key}"]) for key in ("name_scopes", "class_hierarchy"))
        path, kind = str(paths[-2]), str(classes[-2]).rpartition(".")[2]
    except (KeyError, IndexError, TypeError, ValueError, SyntaxError, RecursionError, MemoryError):
        return ""
    if not kind.isidentifier():
        return ""
    return f"{kind} {path!r}" if path else kind


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
        ModelError: Shape inference fails, a tensor or what would have to be folded is too large, or an input or output
            is no tensor of a type of :data:`tvm_schedules.common.dtypes.TYPES`.
        ShapeError: A shape is open.
    """
    import onnx

    _check_ends(model)
    model = with_plain_operators(model)
    try:
        # Without data_prop: it follows numbers through the network without bounds.
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except Exception as error:
        raise ModelError(f"shape inference fails: {str(error).splitlines()[0]}") from error
    graph = model.graph
    _check_operators(graph.node)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    inputs = [v for v in graph.input if v.name not in constants]
    types = {v.name: v.type for v in [*graph.value_info, *graph.input, *graph.output]}
    opsets = {o.domain: int(o.version) for o in model.opset_import}
    outputs = [v.name for v in graph.output]
    nodes = _Folder(constants, types, opsets, outputs).run(graph.node)
    makers = {name: node for node in nodes for name in node.outputs if name}
    live = [v.name for v in inputs] + [name for node in nodes for name in (*node.inputs, *node.outputs)] + outputs
    known = {
        name: Value(name, _shape(name, types[name], makers), _dtype(types[name]))
        for name in dict.fromkeys(live)
        if name in types and types[name].HasField("tensor_type") and name not in constants
    }
    for name in outputs:
        if name in constants:
            if not constants[name].size:
                raise ShapeError(f"output {name!r} has the shape {list(constants[name].shape)}: it is empty")
            known[name] = Value(name, constants[name].shape, constants[name].dtype.name)
    for node in nodes:
        for name in node.outputs:
            if name and name not in known and name not in constants:
                raise ShapeError(f"the shape of {name!r}, output of {node.op} node {node.name!r}, cannot be inferred")
    opset = opsets.get("", opsets.get("ai.onnx", 25))
    return Graph(graph.name or "network", nodes, known, constants, [v.name for v in inputs], outputs, opset=opset)


def _check_ends(model: Any) -> None:
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise ModelError(f"{value.name!r} is an input or output that is no tensor: {kind}")
        check_type(_dtype(value.type), f"input or output {value.name!r}")


def _check_operators(nodes: Any) -> None:
    """Raises UnsupportedOperatorError, which names the node, for what no later stage takes."""
    for proto in nodes:
        name = proto.name or proto.output[0]
        if proto.op_type in _LOOPS or proto.domain not in ("", "ai.onnx"):
            kind = f"{proto.domain}::{proto.op_type}" if proto.domain else proto.op_type
            why = "is a loop" if proto.op_type in _LOOPS else "is not part of ONNX"
            raise UnsupportedOperatorError(
                f"node {name!r}: the operator {kind} {why}; "
                "express it with other standard operators in the network's forward, or leave it outside"
            )
        if proto.op_type == "BatchNormalization" and _attributes(proto).get("training_mode"):
            raise UnsupportedOperatorError(
                f"node {name!r}: BatchNormalization is in training mode, in which it measures its input; export the "
                "network in evaluation mode"
            )


class _Folder:
    """Takes what is computed from constants alone out of a list of nodes.

    Weights in 2 or 8 bits are left to :mod:`tvm_schedules.passes.weights`, unless what reads them has no other input:
    then a layer is applied to a constant.
    """

    def __init__(
        self, constants: dict[str, np.ndarray], types: dict[str, Any], opsets: dict[str, int], outputs: Sequence[str]
    ) -> None:
        self.constants, self.types, self.opsets, self.outputs = constants, types, opsets, outputs
        self.budget = Budget(sum(array.size for array in constants.values()))
        self.weighty = {name for name, array in constants.items() if array.dtype.itemsize == 1 and array.ndim > 1}
        self.late: dict[str, Any] = {}  # the nodes of weights, by their results

    def run(self, protos: Any) -> list[Node]:
        """The nodes that stay; ``constants`` gets the results of the others, ``types`` what follows from them."""
        kept: list[tuple[str, Any]] = []
        names: set[str] = set()
        waiting = list(reversed(protos))
        while waiting:
            proto, index = waiting.pop(), len(names)
            name = proto.name if proto.name and proto.name not in names else f"{proto.name or proto.op_type}_{index}"
            names.add(name)
            if proto.output and not proto.output[0]:
                proto = _with_first_output(proto, f"{name}/unread")
            if proto.op_type == "Constant":
                self.constants[proto.output[0]] = _constant(proto)
            elif proto.op_type == "If" and proto.input[0] in self.constants:
                waiting += reversed(self._branch(proto))
            elif not self._is_shape(proto) and not self._folds(proto):
                self._infer(proto)
                kept.append((name, proto))
        return self._needed(kept)

    def _branch(self, proto: Any) -> list[Any]:
        from onnx import numpy_helper

        nodes, tensors = taken(proto, bool(np.all(self.constants[proto.input[0]])))
        self.constants.update({tensor.name: numpy_helper.to_array(tensor) for tensor in tensors})
        return nodes

    def _needed(self, protos: list[tuple[str, Any]]) -> list[Node]:
        """Nodes of what the outputs are made of, without those of their results that nobody reads."""
        read = set(self.outputs)
        nodes = []
        for name, proto in reversed(protos):
            outputs = [output if output in read else "" for output in proto.output]
            if any(outputs):
                outputs[0] = proto.output[0]  # what tells nodes apart
                read.update(read_by(proto))
                while not outputs[-1]:
                    outputs.pop()
                attributes, origin = _attributes(proto), _origin(proto)
                nodes.append(Node(name, proto.op_type, list(proto.input), outputs, attributes, proto.domain, origin))
        return nodes[::-1]

    def _is_shape(self, proto: Any) -> bool:
        """Whether it is the shape, or the size, of a tensor of fixed shape."""
        shape = fixed_shape(self.types.get(proto.input[0])) if proto.op_type in ("Shape", "Size") else None
        if shape is None:
            return False
        ends = {a.name: int(a.i) for a in proto.attribute}
        values = prod(shape) if proto.op_type == "Size" else shape[ends.get("start", 0) : ends.get("end", len(shape))]
        self.constants[proto.output[0]] = np.array(values, np.int64)
        return True

    def _infer(self, proto: Any) -> None:
        if all(fixed_shape(self.types.get(name)) is not None for name in proto.output if name):
            return
        for name, kind in infer(proto, self.types, self.constants, self.opsets).items():
            if kind.WhichOneof("value") and (name not in self.types or fixed_shape(kind) is not None):
                self.types[name] = kind

    def _folds(self, proto: Any) -> bool:
        reads = [name for name in proto.input if name]
        if not reads or not all(name in self.constants or name in self.late for name in reads):
            return False
        if proto.op_type in KEEP and any(name in self.weighty for name in reads):
            self.weighty.update(proto.output)
            self.late.update(dict.fromkeys(proto.output, proto))
            return False
        for name in reads:
            if not self._value(name):
                return False
        return self._evaluate(proto)

    def _value(self, name: str) -> bool:
        """Whether a constant's or a weight's value is in ``constants`` now."""
        if not name or name in self.constants:
            return True
        return all(map(self._value, self.late[name].input)) and self._evaluate(self.late[name])

    def _evaluate(self, proto: Any) -> bool:
        made = evaluate(proto, self.constants, self.opsets, self.budget)
        if made is None:
            size = sum(result_sizes(proto, self.constants, self.opsets) or ())
            if size > self.budget.left:
                raise ModelError(
                    f"node {proto.name or proto.output[0]!r}: {proto.op_type} makes a constant of {size:,} elements; "
                    f"{self.budget.left:,} more are folded in a file of this size; make it an input of the network"
                )
            return False
        self.constants.update((name, array) for name, array in zip(proto.output, made, strict=False) if name)
        return True


def _with_first_output(proto: Any, name: str) -> Any:
    """A copy of a node whose first output, which nobody reads, has a name."""
    copy = type(proto)()
    copy.CopyFrom(proto)
    copy.output[0] = name
    return copy


def _constant(proto: Any) -> np.ndarray:
    import onnx

    attr = proto.attribute[0]
    if attr.name == "value":
        return onnx.numpy_helper.to_array(attr.t)
    value = onnx.helper.get_attribute_value(attr)
    return np.array(value, np.int64 if attr.name.startswith("value_int") else np.float32)
