"""Weights that are used in parts, such as those of queries, keys and values in one parameter."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tern_lightning.exporter.graph import add_constant, attribute, constant
from tern_lightning.ternary_tensor import TernaryTensor


def split_constants(graph: ir.Graph) -> None:
    """Replace the parts of split constants, turned where a product needs them so, by constants of their own.

    The optimizer of onnxscript leaves both alone: nodes with several outputs, and large constants.
    """
    for node in list(graph):
        if node.op_type == "Split":
            array, sizes = constant(node.inputs[0]), constant(node.inputs[1]) if len(node.inputs) > 1 else None
            if array is None or (len(node.inputs) > 1 and sizes is None):
                continue
            axis, count = int(attribute(node, "axis", 0)), len(node.outputs)
            parts = np.array_split(array, count if sizes is None else np.cumsum(sizes)[:-1], axis)
            for output, part in zip(node.outputs, parts, strict=True):
                _replace(graph, output, part)
        elif node.op_type == "Transpose" and constant(node.inputs[0]) is not None:
            array = constant(node.inputs[0])
            assert array is not None
            if array.ndim == 2 and all(user.op_type == "MatMul" for user in node.outputs[0].consumers()):
                _replace(graph, node.outputs[0], array.T)


def _replace(graph: ir.Graph, value: ir.Value, array: NDArray[np.generic]) -> None:
    if value.uses():
        value.replace_all_uses_with(add_constant(graph, str(value.name), np.ascontiguousarray(array)))


def rows_of(weight: TernaryTensor, array: NDArray[np.float32]) -> TernaryTensor | None:
    """The outputs of a layer's ternary weight whose values are ``array``, or None.

    Args:
        weight: The weight of the layer, outputs by inputs or the reverse.
        array: Outputs by inputs.
    """
    wide = weight.per_channel
    codes = wide.codes if wide.channel_axis == 0 else wide.codes.movedim(wide.channel_axis + 1, 1)
    turned = TernaryTensor(codes.contiguous(), wide.positive, wide.negative)
    values, count = turned.dequantize().numpy(), len(array)
    if values.shape[1:] != array.shape[1:] or not count:
        return None
    for first in np.flatnonzero((values == array[0]).all(1)):
        if np.array_equal(values[first : first + count], array):
            return turned.outputs(slice(int(first), int(first) + count))
    return None
