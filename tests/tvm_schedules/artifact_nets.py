"""Small networks by the ONNX contract, with random ternary weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tvm_schedules.ir.ternary_tensor import pack_int2


class Builder:
    """Adds layers one after another to a graph."""

    def __init__(self, seed: int = 0, zeros: float = 0.7) -> None:
        self.random = np.random.default_rng(seed)
        self.zeros = zeros
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def ternary(self, name: str, shape: list[int], axis: int = 0, term: str = "") -> str:
        """A ternary weight behind DequantizeLinear; returns the float tensor's name."""
        codes = self.random.choice([-1, 0, 1], shape, p=[(1 - self.zeros) / 2, self.zeros, (1 - self.zeros) / 2])
        packed = pack_int2(codes.astype(np.int8)).tobytes()
        self.weights.append(helper.make_tensor(f"{name}.weight{term}", TensorProto.INT2, shape, packed, raw=True))
        fan_in = np.prod(shape) / shape[axis]
        scale = self.random.uniform(0.7, 1.3, shape[axis]) / np.sqrt(fan_in * (1 - self.zeros))
        self.constant(f"{name}.weight_scale{term}", scale.astype(np.float32))
        inputs = [f"{name}.weight{term}", f"{name}.weight_scale{term}"]
        output = f"{name}.weight_dequantized{term}"
        self.nodes.append(
            helper.make_node("DequantizeLinear", inputs, [output], name=f"{name}/dequantize{term}", axis=axis)
        )
        return output

    def quantize(self, x: str, scale: float, zero: int) -> str:
        names = [self.constant(f"{x}.scale", np.float32(scale)), self.constant(f"{x}.zero_point", np.uint8(zero))]
        self.nodes.append(helper.make_node("QuantizeLinear", [x, *names], [f"{x}.q"], name=f"{x}/quantize"))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{x}.q", *names], [f"{x}.dq"], name=f"{x}/dequantize"))
        return f"{x}.dq"

    def op(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output.replace(".", "/"), **attributes))
        return output

    def model(self, inputs: dict[str, list[int | str]], outputs: dict[str, list[int | str]]) -> onnx.ModelProto:
        sides = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()]
            for side in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, "net", *sides, self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
        onnx.checker.check_model(made)
        return made


def conv_net(
    quantized: bool = True, channels: int = 16, size: int = 8, batch: int | str = 1, zeros: float = 0.7
) -> onnx.ModelProto:
    """Ternary 3x3 convolution, ReLU, residual add of another one, average pooling, ternary linear layer."""
    b = Builder(zeros=zeros)
    c = channels

    def q(x: str, scale: float, zero: int) -> str:
        return b.quantize(x, scale, zero) if quantized else x

    def conv(x: str, name: str) -> str:
        bias = b.constant(f"{name}.bias", b.random.normal(0, 0.1, c).astype(np.float32))
        return b.op("Conv", [x, b.ternary(name, [c, c, 3, 3]), bias], f"{name}.out", pads=[1, 1, 1, 1])

    x = q("x", 6 / 255, 128)
    first = q(b.op("Relu", [conv(x, "conv1")], "relu1"), 4 / 255, 0)
    second = b.op("Add", [conv(first, "conv2"), first], "sum")
    second = q(b.op("Relu", [second], "relu2"), 6 / 255, 0)
    pooled = b.op("Flatten", [b.op("GlobalAveragePool", [second], "pool")], "flat", axis=1)
    pooled = q(pooled, 4 / 255, 0)
    bias = b.constant("fc.bias", b.random.normal(0, 0.1, 10).astype(np.float32))
    b.op("Gemm", [pooled, b.ternary("fc", [10, c]), bias], "y", transB=1)
    return b.model({"x": [batch, c, size, size]}, {"y": [batch, 10]})


def integer_net(channels: int = 16, size: int = 8) -> onnx.ModelProto:
    """Two ternary convolutions whose output is a quantized tensor: nothing in it depends on the order of float sums."""
    b = Builder(1)
    x = b.quantize("x", 6 / 255, 128)
    for index, name in enumerate(("conv1", "conv2")):
        bias = b.constant(f"{name}.bias", b.random.normal(0, 0.1, channels).astype(np.float32))
        weight = b.ternary(name, [channels, channels, 3, 3])
        strides = [1 + index, 1 + index]
        out = b.op("Conv", [x, weight, bias], f"{name}.out", pads=[1, 1, 1, 1], strides=strides)
        x = b.quantize(b.op("Relu", [out], f"relu{index + 1}"), 4 / 255, 0)
    return b.model({"x": [1, channels, size, size]}, {x: [1, channels, size // 2, size // 2]})


class ExactBuilder(Builder):
    """Scales are powers of two and biases short, so that no float operation rounds before a tensor is quantized."""

    def constant(self, name: str, value: np.ndarray) -> str:
        value = np.asarray(value)
        if "scale" in name:
            value = (2.0 ** np.round(np.log2(value))).astype(np.float32)
        elif name.endswith(".bias"):
            value = (np.round(value * 32) / 32).astype(np.float32)  # a multiple of every product of scales
        return super().constant(name, value)


def exact_net(channels: int = 16, size: int = 8) -> onnx.ModelProto:
    """Convolutions, residual addition, pooling and a linear layer whose every way to compute gives the same bits."""
    b = ExactBuilder(2)
    x = b.quantize("x", 1 / 32, 128)
    kept = x
    for name, channels_in, strides in (("conv1", channels, 1), ("conv2", channels, 1), ("conv3", channels, 2)):
        bias = b.constant(f"{name}.bias", b.random.normal(0, 0.1, channels).astype(np.float32))
        weight = b.ternary(name, [channels, channels_in, 3, 3])
        out = b.op("Conv", [x, weight, bias], f"{name}.out", pads=[1, 1, 1, 1], strides=[strides, strides])
        if name == "conv2":
            out = b.op("Add", [out, kept], "sum")
        x = b.quantize(b.op("Relu", [out], f"{name}.relu"), 1 / 64, 0)
        kept = x if name == "conv1" else kept
    x = b.op("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    flat = b.op("Flatten", [x], "flat", axis=1)
    features = channels * (size // 4) ** 2
    bias = b.constant("fc.bias", b.random.normal(0, 0.1, 10).astype(np.float32))
    b.op("Gemm", [flat, b.ternary("fc", [10, features]), bias], "y", transB=1)
    return b.model({"x": [1, channels, size, size]}, {"y": [1, 10]})
