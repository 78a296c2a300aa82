"""Networks and independent helpers of the export tests."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def make_ternary(module: nn.Module, seed: int = 0, unequal: bool = False, per_channel: bool = True) -> nn.Module:
    """Give all layers exactly ternary weights and all norms random statistics with negative and zero gammas."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, LAYERS):
            layer.weight.data = ternary_weight(layer, generator, unequal, per_channel)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            size = layer.weight.shape
            layer.weight.data = torch.randn(size, generator=generator)
            layer.weight.data[0], layer.weight.data[1] = -0.7, 0.0
            layer.bias.data = torch.randn(size, generator=generator)
            layer.running_mean = torch.randn(size, generator=generator)
            layer.running_var = torch.rand(size, generator=generator) + 0.5
    return module


def ternary_weight(layer: nn.Module, generator: torch.Generator, unequal: bool, per_channel: bool) -> torch.Tensor:
    weight = layer.weight
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    axis = 1 if transposed and layer.groups == 1 else 0
    shape = [1] * weight.ndim
    if per_channel and not (transposed and layer.groups > 1):
        shape[axis] = weight.shape[axis]
    codes = torch.randint(-1, 2, weight.shape, generator=generator)
    positive = torch.rand(shape, generator=generator) + 0.1
    negative = torch.rand(shape, generator=generator) + 0.1 if unequal else positive
    return torch.where(codes > 0, positive, torch.where(codes < 0, -negative, torch.zeros(())))


def run(model: onnx.ModelProto, *inputs: torch.Tensor) -> list[np.ndarray]:
    """onnxruntime as a user runs it: all graph optimizations, exact two-bit products."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {meta.name: x.numpy() for meta, x in zip(session.get_inputs(), inputs, strict=True)})


def unpack_int2(tensor: onnx.TensorProto) -> np.ndarray:
    """Codes of an INT2 initializer, written independently of the package: bit by bit."""
    assert tensor.data_type == onnx.TensorProto.INT2
    count = int(np.prod(tensor.dims))
    assert len(tensor.raw_data) == (count + 3) // 4
    bits = np.unpackbits(np.frombuffer(tensor.raw_data, np.uint8), bitorder="little").reshape(-1, 2).astype(np.int8)
    return (bits[:, 0] - 2 * bits[:, 1])[:count].reshape(tuple(tensor.dims))


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def relative_error(actual: np.ndarray, expected: torch.Tensor) -> float:
    reference = expected.detach().numpy()
    return float(np.abs(actual - reference).max() / np.abs(reference).max())


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class Residual(nn.Module):
    """A small residual classifier whose first and last layer may stay float."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width), Block(width))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        return self.fc(self.pool(self.layer1(x)).flatten(1))
