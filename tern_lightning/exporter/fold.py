"""BatchNormalization folded into the layer before it, exactly also for ternary weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from tern_lightning.exporter.graph import Layer, Network, add_constant, attribute, constant, join


def fold_batch_norms(network: Network) -> None:
    """Fold every BatchNormalization that is the only reader of a Conv, ConvTranspose or Gemm.

    ``gamma * (W x + b - mean) / sqrt(var + eps) + beta`` becomes ``W' x + b'`` with every output channel of W
    multiplied by ``gamma / sqrt(var + eps)``. A ternary weight keeps its codes (flipped where gamma is negative, zero
    where it is zero) and only its levels change. What cannot be folded stays: normalization before a layer, and after
    a grouped transposed convolution, whose weight has no axis of all output channels.
    """
    for index, layer in enumerate(network.layers):
        norm = _following_norm(layer)
        affine = _affine(norm) if norm is not None else None
        if norm is not None and affine is not None:
            network.layers[index] = _fold(network.graph, layer, norm, *affine)


def _following_norm(layer: Layer) -> ir.Node | None:
    node = layer.node
    output = node.outputs[0]
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or output.is_graph_output() or len(output.uses()) != 1:
        return None
    if node.op_type == "ConvTranspose" and layer.groups > 1:
        return None
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return None
    (user, position), *_ = output.uses()
    usable = user.op_type == "BatchNormalization" and position == 0 and not attribute(user, "training_mode", 0)
    return user if usable else None


def _affine(norm: ir.Node) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Factor and offset of a normalization per channel, or None where they are computed in the graph."""
    parameters = [constant(value) for value in norm.inputs[1:5]]
    if any(array is None for array in parameters):
        return None
    gamma, beta, mean, variance = (np.asarray(array, dtype=np.float64) for array in parameters)
    factor = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    return factor, beta - mean * factor


def _fold(
    graph: ir.Graph, layer: Layer, norm: ir.Node, factor: NDArray[np.float64], offset: NDArray[np.float64]
) -> Layer:
    node = layer.node
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
    if bias is None:  # computed in the graph
        return layer
    folded = (np.asarray(bias, dtype=np.float64) * factor + offset).astype(np.float32)
    node.resize_inputs(3)
    node.replace_input_with(2, add_constant(graph, join(layer.path, "bias_folded"), folded))
    shape = [1] * layer.weight.ndim
    shape[layer.axis] = -1
    weight = (layer.weight * factor.reshape(shape)).astype(np.float32)
    ternary = layer.ternary and layer.ternary.scale_channels(torch.from_numpy(factor))
    norm.outputs[0].replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
    graph.remove(norm, safe=True)
    return dataclasses.replace(layer, weight=weight, ternary=ternary)
