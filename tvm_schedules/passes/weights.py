"""Finds the weights: ternary ones (2-bit terms, their sums, floats with three values), 8-bit ones, plain ones."""

from __future__ import annotations

import numpy as np

from tvm_schedules.errors import ModelError
from tvm_schedules.ir.graph import DenseWeight, Graph, Node, Weight
from tvm_schedules.ir.ternary_tensor import TernaryTensor

__all__ = ["run"]


def run(graph: Graph) -> None:
    """Moves constant weight expressions (DequantizeLinear, Transpose, Add of such) into ``graph.weights``."""
    rest = []
    for node in graph.nodes:
        weight = _weight(graph, node)
        if weight is None:
            rest.append(node)
        else:
            graph.weights[node.outputs[0]] = weight
    graph.nodes = rest
    for node in rest:
        for name in node.inputs:
            if name in graph.weights and node.op not in ("Conv", "Gemm", "MatMul", "ConvTranspose"):
                graph.constants[name] = graph.weights[name].dequantize()


def as_weight(graph: Graph, name: str, channel_axis: int) -> Weight | None:
    """The weight of that name with its output channels along ``channel_axis``; None if it is not a constant."""
    if name in graph.weights:
        return graph.weights[name]
    array = graph.constants.get(name)
    if array is None or array.dtype != np.float32 or array.ndim < 2:
        return None
    if array.size // array.shape[channel_axis] >= 8:
        found = TernaryTensor.from_values(array, channel_axis)
        if found is not None:
            return found
    return DenseWeight(array, np.ones(array.shape[channel_axis], np.float32), channel_axis)


def _weight(graph: Graph, node: Node) -> Weight | None:
    if node.op == "DequantizeLinear" and node.inputs[0] in graph.constants:
        return _dequantized(graph, node)
    operands = [graph.weights.get(name) for name in node.inputs]
    first = operands[0] if operands else None
    if node.op == "Transpose" and first is not None:
        rank = first.codes.ndim - 1 if isinstance(first, TernaryTensor) else first.values.ndim
        return _transposed(first, list(node.attrs.get("perm", range(rank - 1, -1, -1))))
    if node.op == "Add" and all(isinstance(w, TernaryTensor) for w in operands):
        terms = [w.per_channel for w in operands if isinstance(w, TernaryTensor)]
        if len({w.channel_axis for w in terms}) == 1:
            codes = np.concatenate([w.codes for w in terms])
            positive, negative = (np.concatenate([getattr(w, f) for w in terms]) for f in ("positive", "negative"))
            return TernaryTensor(codes, positive, negative, terms[0].channel_axis)
    return None


def _dequantized(graph: Graph, node: Node) -> Weight | None:
    codes, scale = graph.constants[node.inputs[0]], graph.constants.get(node.inputs[1])
    zero = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if scale is None or codes.ndim < 2 or node.attrs.get("block_size"):
        return None
    axis = int(node.attrs.get("axis", 1)) % codes.ndim
    if scale.size not in (1, codes.shape[axis]):
        raise ModelError(
            f"DequantizeLinear {node.name!r}: {scale.size} scales for {codes.shape[axis]} channels on axis {axis}"
        )
    if scale.size == 1:
        axis = 0
    numbers = codes.astype(np.int32)
    if zero is not None:
        along = [-1 if i == axis else 1 for i in range(codes.ndim)] if zero.size > 1 else [1] * codes.ndim
        numbers = numbers - zero.astype(np.int32).reshape(along)
    scales = np.broadcast_to(scale.astype(np.float32).ravel(), (codes.shape[axis],)).copy()
    if np.abs(numbers).max(initial=0) <= 1:
        return TernaryTensor(numbers.astype(np.int8)[None], scales[None], scales[None].copy(), axis)
    if np.abs(numbers).max() <= 127:
        return DenseWeight(numbers.astype(np.int8), scales, axis)
    return DenseWeight(numbers.astype(np.float32), scales, axis)


def _transposed(weight: Weight, perm: list[int]) -> Weight:
    axis = perm.index(weight.channel_axis)
    if isinstance(weight, TernaryTensor):
        codes = weight.codes.transpose([0, *(p + 1 for p in perm)])
        return TernaryTensor(np.ascontiguousarray(codes), weight.positive, weight.negative, axis)
    return DenseWeight(np.ascontiguousarray(weight.values.transpose(perm)), weight.scale, axis)
