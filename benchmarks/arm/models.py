"""What is counted: single layers and networks, for this package and for onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.tvm_schedules.nets import Net, resnet
from tvm_schedules.bench import networks

__all__ = ["LAYERS", "LINEARS", "NETWORKS", "Layer", "LinearLayer", "nothing", "resnet20"]


@dataclass(frozen=True)
class Layer:
    """A convolution with 8-bit input and output, zero points 0, a ReLU.

    Args:
        fan: Input channels a group.
        rows: Output channels.
        size: Height and width of the input.
        kernel: Height and width of the kernel.
        stride: In both directions.
        groups: Channel groups.
        dense: 8-bit weights in place of ternary ones.
        shared: Neighboring output channels whose zeros are at the same places.
    """

    fan: int
    rows: int
    size: int
    kernel: int
    stride: int = 1
    groups: int = 1
    dense: bool = False
    shared: int = 1

    def _shape(self) -> tuple[int, ...]:
        return self.rows, self.fan, self.kernel, self.kernel

    def _attributes(self) -> dict[str, Any]:
        return {"pads": [self.kernel // 2] * 4, "strides": [self.stride] * 2, "group": self.groups}

    def ours(self, zeros: float) -> Any:
        """ONNX model in this package's form; the input is quantized and packed by another step."""
        net = Net((1, self.fan * self.groups, self.size, self.size), seed=1)
        weight = net.weight(self._shape(), None if self.dense else zeros, int8=True, shared=self.shared)
        conv = net.op("Conv", net.quantize("input_0"), weight, net.bias(self.rows), **self._attributes())
        return net.model(net.quantize(net.op("Relu", conv)))

    def peer(self) -> bytes:
        """One ``QLinearConv`` of signed bytes, which is onnxruntime's cheapest form; zeros change nothing for it."""
        from onnx import TensorProto, helper, numpy_helper

        rng, zero = np.random.default_rng(1), np.int8(0)
        numbers = {
            "xs": np.float32(0.02), "xz": zero,
            "w": rng.integers(-127, 128, self._shape()).astype(np.int8),
            "ws": rng.uniform(0.001, 0.002, self.rows).astype(np.float32), "wz": np.zeros(self.rows, np.int8),
            "ys": np.float32(0.02), "yz": zero,
            "b": rng.integers(-999, 999, self.rows).astype(np.int32),
        }  # fmt: skip
        node = helper.make_node("QLinearConv", ["x", *numbers], ["y"], **self._attributes())
        out = -(-self.size // self.stride)
        shapes = {"x": [1, self.fan * self.groups, self.size, self.size], "y": [1, self.rows, out, out]}
        x, y = (helper.make_tensor_value_info(k, TensorProto.INT8, v) for k, v in shapes.items())
        tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in numbers.items()]
        graph = helper.make_graph([node], "layer", [x], [y], tensors)
        model: bytes = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
        ).SerializeToString()
        return model

    def peer_input(self) -> np.ndarray:
        """What :meth:`peer` is run on."""
        return np.random.default_rng(2).integers(-128, 128, (1, self.fan * self.groups, self.size, self.size), np.int8)


LAYERS = {
    "conv3x3": Layer(64, 64, 16, 3),
    "conv3x3-shared2": Layer(64, 64, 16, 3, shared=2),
    "conv3x3-shared4": Layer(64, 64, 16, 3, shared=4),
    "conv3x3-stride2": Layer(64, 64, 16, 3, stride=2),
    "conv3x3-32": Layer(16, 16, 32, 3),
    "conv3x3-8": Layer(64, 64, 8, 3),
    "conv1x1": Layer(64, 64, 16, 1),
    "conv1x1-shared4": Layer(64, 64, 16, 1, shared=4),
    "dense3x3": Layer(64, 64, 16, 3, dense=True),
    "stem": Layer(3, 16, 32, 3, dense=True),
    "depthwise": Layer(1, 128, 16, 3, groups=128, dense=True),
}


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer of one row of 8-bit inputs, which gives floats.

    Args:
        inputs: Inputs.
        outputs: Outputs.
        dense: 8-bit weights in place of ternary ones.
    """

    inputs: int
    outputs: int
    dense: bool = False

    def ours(self, zeros: float) -> Any:
        """ONNX model in this package's form; the input is quantized by another step."""
        net = Net((1, self.inputs), seed=1)
        weight = net.weight((self.outputs, self.inputs), None if self.dense else zeros, int8=True)
        x = net.quantize("input_0", 0.02, 3)
        return net.model(net.op("Gemm", x, weight, net.bias(self.outputs), transB=1))


LINEARS = {"linear": LinearLayer(1024, 1024), "classifier": LinearLayer(1280, 1000, dense=True)}


def resnet20(zeros: float) -> Any:
    """ResNet-20 for 32x32 images: dense 8-bit stem and classifier, ternary layers between."""
    return resnet([(16, 1)] * 3 + [(32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1)], 32, zeros)


NETWORKS = {"resnet20": resnet20, "mobilenetv2": lambda zeros: networks.build("mobilenetv2", zeros)}
"""Name -> what makes the network with such a share of zeros."""


def nothing(path: Path) -> Path:
    """Writes a network of one element and no work: what a call of onnxruntime costs."""
    from onnx import TensorProto, helper, save

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("nothing", "same"))
    graph = helper.make_graph([helper.make_node("Identity", ["nothing"], ["same"])], "nothing", [x], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path
