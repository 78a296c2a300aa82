"""What is counted: the networks of MLPerf Tiny and single layers, with random ternary weights.

The networks follow the public description of the benchmark ("MLPerf Tiny Benchmark", Banbury et al., 2021, and the
reference models in github.com/mlcommons/tiny), with symmetric padding where TensorFlow pads more behind than before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.random_ternary import random_inputs, randomly_ternary
from examples.models import BasicBlock, conv_bn
from tests.tvm_schedules.nets import Net
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.passes.quantized import COMMUTING
from tvm_schedules.pipeline import read_graph

__all__ = ["LAYERS", "NETWORKS", "build", "live_bytes"]


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_bn(inputs, outputs, kernel, stride, groups), nn.ReLU())


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, inputs, 3, stride, inputs), _conv(inputs, outputs, 1))


def _classify(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnet8() -> nn.Module:
    """Image classification: CIFAR-10, three residual blocks with projections."""

    def block(inputs: int, outputs: int) -> BasicBlock:
        if inputs == outputs:
            return BasicBlock(inputs, outputs, 1, None)
        return BasicBlock(inputs, outputs, 2, nn.Sequential(*conv_bn(inputs, outputs, 1, 2)))

    return nn.Sequential(_conv(3, 16), block(16, 16), block(16, 32), block(32, 64), _classify(64, 10))


def ds_cnn() -> nn.Module:
    """Keyword spotting: 49 frames of 10 coefficients, 12 words."""
    first = nn.Conv2d(1, 64, (10, 4), 2, (5, 1), bias=False)
    blocks = [_separable(64, 64) for _ in range(4)]
    return nn.Sequential(first, nn.BatchNorm2d(64), nn.ReLU(), *blocks, _classify(64, 12))


def mobilenet() -> nn.Module:
    """Visual wake words: MobileNetV1 with a quarter of the channels."""
    plan = ((8, 1), (16, 2), (32, 1), (32, 2), (64, 1), (64, 2), *[(128, 1)] * 5, (128, 2), (256, 1))
    outputs = [width for width, _ in plan[1:]] + [256]
    blocks = [_separable(width, out, stride) for (width, stride), out in zip(plan, outputs, strict=True)]
    return nn.Sequential(_conv(3, 8, 3, 2), *blocks, _classify(256, 2))


def autoencoder() -> nn.Module:
    """Anomaly detection in the sounds of machines."""
    sizes = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 640))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet8": (resnet8, (3, 32, 32)),
    "resnet8-pairs": (resnet8, (3, 32, 32)),
    "resnet8-fours": (resnet8, (3, 32, 32)),
    "ds-cnn": (ds_cnn, (1, 49, 10)),
    "mobilenet": (mobilenet, (3, 96, 96)),
    "autoencoder": (autoencoder, (640,)),
    "autoencoder-ternary": (autoencoder, (640,)),
}
"""What makes a network, and the shape of its input. The first, the last and depthwise layers are dense with 8 bits."""

SHARED = {"pairs": 2, "fours": 4}
"""How many neighboring output channels share their zeros, by the end of a name."""

TERNARY_ENDS = ("autoencoder-ternary",)
"""Networks whose first and last layer are ternary too."""


@dataclass(frozen=True)
class Layer:
    """A ternary layer between 8-bit tensors, with a ReLU.

    Args:
        shape: Of the input, with the batch.
        outputs: Output channels.
        kernel: Height and width of the kernel; 0 for a linear layer.
        shared: So many neighboring output channels have their zeros at the same places.
    """

    shape: tuple[int, ...]
    outputs: int
    kernel: int = 0
    shared: int = 1

    def build(self, zeros: float) -> Any:
        """ONNX model."""
        net = Net(self.shape, seed=1)
        x, sides = net.quantize("input_0"), (self.kernel, self.kernel) if self.kernel else ()
        weight = net.weight((self.outputs, self.shape[1], *sides), zeros, shared=self.shared)
        if self.kernel:
            y = net.op("Conv", x, weight, net.bias(self.outputs), pads=[self.kernel // 2] * 4)
        else:
            y = net.op("Gemm", x, weight, net.bias(self.outputs), transB=1)
        return net.model(net.quantize(net.op("Relu", y)))


LAYERS = {
    "conv3x3": Layer((1, 64, 16, 16), 64, 3),
    "conv3x3-pairs": Layer((1, 64, 16, 16), 64, 3, 2),
    "conv3x3-fours": Layer((1, 64, 16, 16), 64, 3, 4),
    "pointwise": Layer((1, 64, 25, 5), 64, 1),
    "linear": Layer((1, 640), 128),
}
"""Single layers; the copies of the 8-bit input and output are counted with them."""


def build(name: str, zeros: float, depthwise: bool, folder: Path) -> tuple[Any, np.ndarray]:
    """A network or layer; a network that the folder has already is read from there.

    Args:
        name: Of :data:`NETWORKS` or :data:`LAYERS`.
        zeros: Share of zeros in its ternary weights, in [0, 1).
        depthwise: Whether depthwise convolutions are ternary too.
        folder: For exported files.

    Returns:
        The ONNX model and sample inputs ``[n, ...]``.
    """
    import tern_lightning

    if name in LAYERS:
        layer = LAYERS[name]
        return layer.build(zeros), random_inputs(layer.shape[1:], 4, seed=1).abs().numpy()
    make, shape = NETWORKS[name]
    samples = random_inputs(shape, 16, seed=1)
    place = folder / f"{name}-{zeros}{'-t' if depthwise else ''}"
    if not place.is_dir():
        torch.manual_seed(0)
        shared = SHARED.get(name.rpartition("-")[2], 1)
        model = randomly_ternary(make(), shape, zeros, depthwise=depthwise, shared=shared)
        if name in TERNARY_ENDS:
            layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
            for end in (layers[0], layers[-1]):
                codes = torch.where(torch.rand_like(end.weight) < zeros, 0.0, torch.randn_like(end.weight).sign())
                end.weight.data = codes * end.weight.std() / (1 - zeros) ** 0.5
        tern_lightning.export(model, place, samples=samples, activations="uint8", onnx_only=True)
    return read_model(place / "model.onnx"), samples[:4].numpy()


def live_bytes(model: Any) -> int:
    """Bytes of the tensors that are needed at the same time if each element takes one, a sum lying where it was added.

    Args:
        model: ONNX.
    """
    graph = read_graph(model)
    source = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.op in ("QuantizeLinear", *COMMUTING)}
    source |= {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.op == "DequantizeLinear"}

    def root(name: str) -> str:
        return root(source[name]) if name in source else name

    work = [node for node in graph.nodes if node.outputs[0] not in source]
    last = {root(name): index for index, node in enumerate(work) for name in _read(node) if name in graph.values}
    alive, most = {root(name) for name in graph.inputs}, 0
    for index, node in enumerate(work):
        alive |= {name for name in node.outputs if name in last}
        residual = getattr(node, "residual", None)
        free = residual is not None and last[root(residual)] == index
        sizes = [prod(graph.values[name].shape) for name in alive]
        most = max(most, sum(sizes) - (prod(graph.values[node.outputs[0]].shape) if free else 0))
        alive = {name for name in alive if last[name] > index}
    return most


def _read(node: Any) -> list[str]:
    residual = getattr(node, "residual", None)
    return [*node.inputs, *([residual] if residual else [])]
