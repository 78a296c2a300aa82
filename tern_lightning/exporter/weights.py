"""Weights written into the graph: INT2 or INT8 initializers behind DequantizeLinear, or plain float32."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from tern_lightning.exporter.graph import Layer, Network, add_constant, add_node, join
from tern_lightning.exporter.options import DenseWeights
from tern_lightning.ternary_tensor import TernaryTensor


@dataclass
class _Store:
    """Initializers and dequantized values written so far, so that equal ones (tied weights) are written once."""

    graph: ir.Graph
    values: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)

    def constant(self, name: str, tensor: NDArray[np.generic] | ir.PackedTensor, owner: object = None) -> ir.Value:
        key = (tensor.tobytes(), tuple(tensor.shape), str(tensor.dtype), owner)
        if key not in self.values:
            self.values[key] = add_constant(self.graph, name, tensor)
        return self.values[key]


def write_weights(network: Network, dense: DenseWeights) -> None:
    """Replace every port by its weight.

    A ternary weight becomes INT2 codes and one float32 scale per output channel (DequantizeLinear along the channel
    axis); unequal levels and several terms become a sum of such products. A dense weight stays float32 or becomes INT8
    with one scale ``max|w| / 127`` per output channel, as in "Integer Quantization for Deep Learning Inference"
    (2020), section 3.1.

    Args:
        network: Its ports are consumed; its nodes have their final names.
        dense: What becomes of the weights that are not ternary.
    """
    store = _Store(network.graph)
    for layer in network.layers:
        node = layer.port.consumers()[0]
        name = layer.path if layer.title else str(layer.node.name)
        if layer.ternary is not None:
            value = _write_ternary(store, name, layer.ternary, node)
        elif dense == "int8":
            value = _write_int8(store, name, layer, node)
        else:
            value = store.constant(join(name, "weight"), layer.weight)
        layer.port.replace_all_uses_with(value)
        network.graph.inputs.remove(layer.port)


def components(weight: TernaryTensor) -> list[tuple[Tensor, Tensor]]:
    """Split a weight into products of codes and one positive scale per channel whose sum it is.

    Returns:
        ``(codes, scale)`` pairs, int8 of the weight's shape and float32 ``[channels]``: one for a term whose two
        levels agree wherever both are used, two for one with unequal levels (the +1 codes alone, the -1 codes alone).
    """
    wide = weight.per_channel
    axes = [axis for axis in range(wide.codes.ndim - 1) if axis != wide.channel_axis]
    pairs = []
    for codes, positive, negative in zip(wide.codes, wide.positive, wide.negative, strict=True):
        plus, minus = (codes > 0), (codes < 0)
        has_plus, has_minus = plus.sum(axes) > 0, minus.sum(axes) > 0
        positive = torch.where(has_plus, positive, torch.where(has_minus, negative, torch.ones_like(positive)))
        negative = torch.where(has_minus, negative, positive)
        if torch.equal(positive, negative):
            pairs.append((codes, positive))
        else:
            pairs += [(plus.to(torch.int8), positive), (-minus.to(torch.int8), negative)]
    return [_positive_scale(codes, scale, wide.channel_axis) for codes, scale in pairs]


def _positive_scale(codes: Tensor, scale: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    shape = [1] * codes.ndim
    shape[axis] = -1
    codes = codes * scale.sign().to(torch.int8).reshape(shape)
    return codes, torch.where(scale == 0, torch.ones_like(scale), scale.abs())


def _write_ternary(store: _Store, name: str, weight: TernaryTensor, before: ir.Node) -> ir.Value:
    parts = components(weight)
    total: ir.Value | None = None
    for index, (codes, scale) in enumerate(parts):
        suffix = f".term{index}" if len(parts) > 1 else ""
        value = _dequantize(store, name, _int2(codes), scale.numpy(), weight.channel_axis, before, suffix)
        if total is None:
            total = value
        else:
            last = index == len(parts) - 1
            output = join(name, "weight_dequantized" if last else f"weight_sum{index}")
            total = add_node(before, "Add", [total, value], f"{name}/add_term{index}", output)
    assert total is not None
    return total


def _write_int8(store: _Store, name: str, layer: Layer, before: ir.Node) -> ir.Value:
    axes = tuple(axis for axis in range(layer.weight.ndim) if axis != layer.axis)
    top = np.abs(layer.weight).max(axis=axes)
    scale = np.where(top > 0, top / np.float32(127), np.float32(1)).astype(np.float32)
    shape = [1] * layer.weight.ndim
    shape[layer.axis] = -1
    codes = np.clip(np.rint(layer.weight / scale.reshape(shape)), -127, 127).astype(np.int8)
    return _dequantize(store, name, codes, scale, layer.axis, before, "")


def _dequantize(
    store: _Store,
    name: str,
    codes: NDArray[np.int8] | ir.PackedTensor,
    scale: NDArray[np.float32],
    axis: int,
    before: ir.Node,
    suffix: str,
) -> ir.Value:
    stored = store.constant(join(name, f"weight{suffix}"), codes)
    inputs = [stored, store.constant(join(name, f"weight_scale{suffix}"), scale, owner=id(stored))]
    key = (id(inputs[0]), id(inputs[1]), axis)
    if key not in store.values:
        output = join(name, f"weight_dequantized{suffix}")
        store.values[key] = add_node(
            before, "DequantizeLinear", inputs, f"{name}/dequantize{suffix}", output, axis=axis
        )
    return store.values[key]


def _int2(codes: Tensor) -> ir.PackedTensor:
    levels = torch.ones(1, 1)
    packed = TernaryTensor(codes[None], levels, levels).pack()[0]
    return ir.PackedTensor(packed.numpy(), ir.DataType.INT2, shape=ir.Shape(codes.shape))
