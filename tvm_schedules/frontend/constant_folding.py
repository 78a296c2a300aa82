"""Evaluates nodes whose inputs are known, within bounds: a file of some bytes may ask for any number of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

__all__ = [
    "FREE",
    "GROWTH",
    "MOST_ELEMENTS",
    "Budget",
    "evaluate",
    "fixed_shape",
    "infer",
    "read_by",
    "result_sizes",
    "run_node",
]

MOST_ELEMENTS = 1 << 28
"""Elements of any tensor of a network."""

FREE = 1 << 22
"""Elements that constants may grow by, whatever the file's size."""

GROWTH = 4
"""How many times larger than the file's constants all that is computed from them may be, beyond :data:`FREE`."""

_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
_SELECTING = {"NonZero", "Unique", "Compress"}
"""Operators whose results are no larger than their input, times its rank, though their shapes depend on its values."""

_SLOW = {
    "Resize", "Upsample", "GridSample", "RoiAlign", "MaxRoiPool", "MaxPool", "AveragePool", "LpPool", "DeformConv",
    "NonMaxSuppression", "ScatterElements", "ScatterND", "GatherND", "LSTM", "GRU", "RNN", "STFT",
}  # fmt: skip
"""Operators that the reference implementation computes element by element in Python; up to :data:`_FEW` elements."""

_FEW = 1 << 13
_NUMBERS = 1024
"""Elements of inputs whose numbers inference reads: shapes, repeats, limits; of larger ones it needs the shape."""


class Budget:
    """Counts the elements of folded constants.

    Args:
        stored: Elements of the constants that are in the file.
    """

    def __init__(self, stored: int) -> None:
        self.left = FREE + GROWTH * stored

    def take(self, elements: int) -> bool:
        """Whether there is room for that many more; they are taken then."""
        if elements > self.left:
            return False
        self.left -= elements
        return True


def evaluate(
    node: Any, known: Mapping[str, np.ndarray], opsets: Mapping[str, int], most: int | Budget
) -> list[np.ndarray] | None:
    """The results of a node whose inputs are all known.

    Args:
        node: The ``onnx.NodeProto``.
        known: Values of its inputs, at least.
        opsets: Version of every operator set.
        most: Elements of its results at most.

    Returns:
        One array for each output, or None: the results' sizes are not known beforehand or too large, they are random,
        or the operator has subgraphs or is not one that ONNX' reference implementation or onnxruntime computes.
    """
    if node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM or _has_subgraph(node):
        return None
    sizes = result_sizes(node, known, opsets)
    if sizes is None:
        return None
    total = sum(sizes)
    if node.op_type in _SLOW and total > _FEW:
        return None
    if not (most.take(total) if isinstance(most, Budget) else total <= most):
        return None
    inputs = {name: known[name] for name in node.input if name}
    for run in (_by_onnx, run_node):
        try:
            arrays = [np.asarray(result) for result in run(node, inputs, opsets)]
        except Exception:  # what both lack stays in the network
            continue
        if all(array.dtype != object for array in arrays):
            return arrays
    return None


def _by_onnx(node: Any, inputs: dict[str, np.ndarray], opsets: Mapping[str, int]) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(node, opsets=dict(opsets)).run(None, inputs))


def run_node(node: Any, inputs: Mapping[str, np.ndarray], opsets: Mapping[str, int]) -> list[Any]:
    """The results of a node by onnxruntime: ONNX' reference implementation does not have all of them.

    Args:
        node: The ``onnx.NodeProto``.
        inputs: Values of its inputs.
        opsets: Version of every operator set.
    """
    import onnxruntime
    from onnx import TypeProto, helper

    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    results = [helper.make_value_info(name, TypeProto()) for name in node.output if name]
    versions = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    graph = helper.make_graph([node], "node", infos, results)
    model = helper.make_model(graph, opset_imports=versions, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = dict(zip([value.name for value in results], session.run(None, dict(inputs)), strict=True))
    return [made.get(name, np.zeros(0)) for name in node.output]


def result_sizes(node: Any, known: Mapping[str, np.ndarray], opsets: Mapping[str, int]) -> list[int] | None:
    """Elements of a node's results, by ONNX' shape inference on the values of its inputs; None where it knows not.

    For operators that select elements it is the largest possible number.
    """
    if node.op_type in _SELECTING:
        whole = known[node.input[0]]
        return [max(1, whole.ndim) * whole.size for _ in node.output]
    types = infer(node, {}, known, opsets)
    shapes = [fixed_shape(types.get(name)) for name in node.output if name]
    return None if None in shapes else [prod(shape) for shape in shapes if shape is not None]


def fixed_shape(kind: Any) -> tuple[int, ...] | None:
    """The shape of an ``onnx.TypeProto``; None where some of it is open, or it is no tensor."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(int(dim.dim_value) for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def infer(
    node: Any, types: Mapping[str, Any], known: Mapping[str, np.ndarray], opsets: Mapping[str, int]
) -> dict[str, Any]:
    """Types of a node's results, by ONNX' shape inference of the node alone.

    Inference of a whole network can follow numbers too, but has no bounds then; here they come from ``known``.

    Args:
        node: The ``onnx.NodeProto``.
        types: ``onnx.TypeProto`` of the inputs that are not known.
        known: The values of inputs that are constants.
        opsets: Version of every operator set.
    """
    import onnx
    from onnx import helper, numpy_helper

    infos, values = [], []
    for name in read_by(node):
        if name in known:
            array = known[name]
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            infos.append(helper.make_tensor_value_info(name, kind, array.shape))
            if array.size <= _NUMBERS:
                values.append(numpy_helper.from_array(array, name))
        elif name in types:
            infos.append(helper.make_value_info(name, types[name]))
    results = [helper.make_value_info(name, onnx.TypeProto()) for name in node.output if name]
    versions = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = helper.make_model(
        helper.make_graph([node], "node", infos, results, values), opset_imports=versions, ir_version=10
    )
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except Exception:  # the node does not fit its inputs; who compiles it says so
        return {}
    return {value.name: value.type for value in inferred.graph.output}


def read_by(node: Any) -> list[str]:
    """Names of the tensors that a node reads, in its subgraphs too."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            own = {value.name for value in (*graph.input, *graph.initializer)}
            own |= {name for inner in graph.node for name in inner.output}
            names += [name for inner in graph.node for name in read_by(inner) if name not in own]
            names += [value.name for value in graph.output if value.name not in own]
    return list(dict.fromkeys(names))


def _has_subgraph(node: Any) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
