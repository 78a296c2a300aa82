"""The networks and layers of the suite as ONNX files of the contract's form, made by numpy: no torch, random weights.

Ternary layers have the asked share of zeros at random places. The stem, depthwise layers and the classifier of a
network stay dense with 8 bits, as in the models that sparse engines are usually shown with. Activations have 8 bits
with ranges measured on random inputs, or are 32-bit floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tvm_schedules.common.near import check_choice, check_share, meant
from tvm_schedules.ir.ternary_tensor import pack_int2

__all__ = ["LAYERS", "LINEAR", "NETWORKS", "Net", "build", "matmul_nbits", "plain_float", "samples"]

SAMPLES = 4
"""Random inputs that activation ranges are measured on."""


class Net:
    """An ONNX network under construction; methods take and return tensor names.

    Args:
        *shapes: Shapes of the inputs ``input_0``, ``input_1``, ...
        seed: Starts the random numbers of the weights.
    """

    def __init__(self, *shapes: tuple[int, ...], seed: int = 0) -> None:
        from onnx import TensorProto, helper

        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.inputs = [helper.make_tensor_value_info(f"input_{i}", TensorProto.FLOAT, s) for i, s in enumerate(shapes)]
        self.count = 0

    def name(self, op: str) -> str:
        """A new name."""
        self.count += 1
        return f"{op.lower()}_{self.count}"

    def const(self, array: Any) -> str:
        """An initializer."""
        from onnx import numpy_helper

        name = self.name("const")
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attrs: Any) -> str:
        """A node; returns its first output."""
        from onnx import helper

        name = self.name(kind)
        names = [name if i == 0 else f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attrs))
        return name

    def codes(self, shape: tuple[int, ...], zeros: float, shared: int = 1) -> np.ndarray:
        """Random codes -1, 0, 1 with about that share of zeros, which ``shared`` neighboring channels share."""
        signs = self.rng.choice([-1, 1], shape)
        kept = self.rng.random((-(-shape[0] // shared), *shape[1:])) >= zeros
        return (signs * np.repeat(kept, shared, axis=0)[: shape[0]]).astype(np.int8)

    @staticmethod
    def packed(codes: np.ndarray) -> bytes:
        """Codes as INT2 in ONNX's order."""
        return bytes(pack_int2(codes))

    def ternary(self, codes: np.ndarray, scale: np.ndarray, axis: int = 0) -> str:
        """A two-bit weight behind DequantizeLinear, one scale a channel."""
        from onnx import TensorProto

        name = self.name("weight")
        self.tensors.append(
            TensorProto(name=name, data_type=TensorProto.INT2, dims=codes.shape, raw_data=self.packed(codes))
        )
        return self.op("DequantizeLinear", name, self.const(scale.astype(np.float32)), axis=axis)

    def int8(self, values: np.ndarray, scale: np.ndarray) -> str:
        """An 8-bit weight behind DequantizeLinear, one scale a channel."""
        return self.op("DequantizeLinear", self.const(values), self.const(scale.astype(np.float32)), axis=0)

    def quantize(self, x: str, scale: float = 0.02, zero: int = 0) -> str:
        """An unsigned 8-bit QuantizeLinear, DequantizeLinear pair."""
        params = [self.const(np.float32(scale)), self.const(np.uint8(zero))]
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *params), *params)

    def model(self, *outputs: str) -> Any:
        """The checked ``onnx.ModelProto``."""
        import onnx
        from onnx import TensorProto, helper

        infos = [helper.make_empty_tensor_value_info(o) for o in outputs]
        for info in infos:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
        graph = helper.make_graph(self.nodes, "net", self.inputs, infos, self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        onnx.checker.check_model(model, full_check=True)
        return model


class RandomNet(Net):
    """Layers with random weights whose outputs stay of the size of their inputs.

    ``ranges`` holds (smallest, largest) value of the tensors to quantize, in order; None leaves them in float and notes
    their names in ``marked``. ``terms`` says what ternary weights are: ``one`` code with a level, what is added and
    what is taken away with levels of their own (``signs``), or ``two`` codes with a level each.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        zeros: float,
        ranges: Sequence[tuple[float, float]] | None,
        seed: int,
        shared: int = 1,
    ) -> None:
        super().__init__(shape, seed=seed)
        self.zeros, self.ranges, self.shared, self.terms = zeros, ranges, shared, "one"
        self.marked: list[str] = []

    def mark(self, x: str) -> str:
        """A tensor that has 8 bits in the quantized network."""
        self.marked.append(x)
        if self.ranges is None:
            return x
        low, high = self.ranges[len(self.marked) - 1]
        scale = max(high - low, 1e-6) / 255
        return self.quantize(x, scale, round(-low / scale))

    def weight(self, shape: tuple[int, ...], dense: bool, gain: float) -> str:
        fan = float(np.prod(shape[1:]))
        spread = gain * self.rng.uniform(0.75, 1.25, shape[0])
        if not dense:
            return self._ternary_weight(shape, spread * np.sqrt(2 / (fan * (1 - self.zeros))))
        values = np.clip(np.rint(self.rng.normal(0, 40, shape)), -127, 127).astype(np.int8)
        scale = spread * np.sqrt(2 / fan) / 40
        if self.ranges is not None:
            return self.int8(values, scale)
        return self.const((values * scale.reshape(-1, *[1] * (len(shape) - 1))).astype(np.float32))

    def _ternary_weight(self, shape: tuple[int, ...], level: np.ndarray) -> str:
        codes = self.codes(shape, self.zeros, self.shared)
        if self.terms == "one":
            return self.ternary(codes, level)
        if self.terms == "signs":
            return self.op(
                "Add", self.ternary(np.maximum(codes, 0), level), self.ternary(np.minimum(codes, 0), 0.8 * level)
            )
        others = self.codes(shape, self.zeros, self.shared)
        return self.op("Add", self.ternary(codes, 0.8 * level), self.ternary(others, 0.3 * level))

    def conv(
        self, x: str, inputs: int, outputs: int, k: int = 3, stride: int = 1, groups: int = 1, dense: bool = False,
        gain: float = 1.0,
    ) -> str:  # fmt: skip
        weight = self.weight((outputs, inputs // groups, k, k), dense, gain)
        bias = self.const(self.rng.normal(0.1, 0.1, outputs).astype(np.float32))
        return self.op("Conv", x, weight, bias, pads=[k // 2] * 4, strides=[stride] * 2, group=groups)

    def linear(self, x: str, inputs: int, outputs: int, dense: bool = False) -> str:
        bias = self.const(self.rng.normal(0.1, 0.1, outputs).astype(np.float32))
        return self.op("Gemm", x, self.weight((outputs, inputs), dense, 1.0), bias, transB=1)

    def relu(self, x: str) -> str:
        return self.mark(self.op("Relu", x))

    def relu6(self, x: str) -> str:
        return self.mark(self.op("Clip", x, self.const(np.float32(0)), self.const(np.float32(6))))

    def classify(self, x: str, channels: int, classes: int) -> str:
        x = self.mark(self.op("Flatten", self.op("GlobalAveragePool", x)))
        return self.linear(x, channels, classes, dense=True)


def _basic(net: RandomNet, x: str, inputs: int, outputs: int, stride: int) -> str:
    """A block of two convolutions of "Deep Residual Learning" (He et al., 2016), projection shortcut (option B)."""
    h = net.relu(net.conv(x, inputs, outputs, 3, stride))
    h = net.conv(h, outputs, outputs, gain=0.4)
    if stride > 1 or inputs != outputs:
        x = net.conv(x, inputs, outputs, 1, stride, gain=0.7)
    return net.relu(net.op("Add", h, x))


def _cifar(blocks: int) -> Callable[[RandomNet], str]:
    def make(net: RandomNet) -> str:
        x = net.relu(net.conv(net.mark("input_0"), 3, 16, dense=True))
        inputs = 16
        for stage, outputs in enumerate((16, 32, 64)):
            for index in range(blocks):
                x = _basic(net, x, inputs, outputs, 2 if stage and not index else 1)
                inputs = outputs
        return net.classify(x, 64, 10)

    return make


def _resnet18(net: RandomNet) -> str:
    x = net.relu(net.conv(net.mark("input_0"), 3, 64, 7, 2, dense=True))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inputs = 64
    for stage, outputs in enumerate((64, 128, 256, 512)):
        for index in range(2):
            x = _basic(net, x, inputs, outputs, 2 if stage and not index else 1)
            inputs = outputs
    return net.classify(x, 512, 1000)


def _mobilenetv2(net: RandomNet) -> str:
    """Sandler et al., 2018, table 2."""
    x = net.relu6(net.conv(net.mark("input_0"), 3, 32, 3, 2, dense=True))
    inputs = 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, outputs, repeats, first in stages:
        for index in range(repeats):
            hidden, stride = inputs * expansion, 1 if index else first
            h = x if expansion == 1 else net.relu6(net.conv(x, inputs, hidden, 1))
            h = net.relu6(net.conv(h, hidden, hidden, 3, stride, hidden, dense=True))
            adds = stride == 1 and inputs == outputs
            h = net.conv(h, hidden, outputs, 1, gain=0.4 if adds else 1.0)
            x = net.mark(net.op("Add", h, x) if adds else h)
            inputs = outputs
    return net.classify(net.relu6(net.conv(x, 320, 1280, 1)), 1280, 1000)


def _mlp(net: RandomNet) -> str:
    x = net.relu(net.linear(net.mark("input_0"), 784, 1024))
    return net.linear(net.relu(net.linear(x, 1024, 1024)), 1024, 10, dense=True)


def _one_linear(outputs: int, inputs: int) -> Callable[[RandomNet], str]:
    return lambda net: net.linear(net.mark("input_0"), inputs, outputs)


def _one_conv(channels: int, k: int, groups: int = 1, dense: bool = False) -> Callable[[RandomNet], str]:
    return lambda net: net.relu(net.conv(net.mark("input_0"), channels, channels, k, 1, groups, dense))


Recipe = tuple[tuple[int, ...], Callable[[RandomNet], str]]

NETWORKS: dict[str, Recipe] = {
    "resnet20": ((1, 3, 32, 32), _cifar(3)),
    "resnet56": ((1, 3, 32, 32), _cifar(9)),
    "resnet18": ((1, 3, 224, 224), _resnet18),
    "mobilenetv2": ((1, 3, 224, 224), _mobilenetv2),
    "mlp": ((1, 784), _mlp),
}
"""Shape of the input, and what builds the network."""

LINEAR: dict[str, Recipe] = {
    f"linear{outputs}x{inputs}": ((1, inputs), _one_linear(outputs, inputs))
    for outputs, inputs in ((1024, 1024), (4096, 4096), (11008, 4096))
}
"""Linear layers of language models, one token: outputs x inputs."""

LAYERS: dict[str, Recipe] = {
    "conv3x3-64-16x16": ((1, 64, 16, 16), _one_conv(64, 3)),
    "conv3x3-64-56x56": ((1, 64, 56, 56), _one_conv(64, 3)),
    "conv3x3-256-14x14": ((1, 256, 14, 14), _one_conv(256, 3)),
    "conv1x1-256-14x14": ((1, 256, 14, 14), _one_conv(256, 1)),
    "dense3x3-64-56x56": ((1, 64, 56, 56), _one_conv(64, 3, dense=True)),
    "depthwise3x3-192-28x28": ((1, 192, 28, 28), _one_conv(192, 3, 192, dense=True)),
}
"""Single layers, whose time is compared with what the machine can do."""


def build(name: str, zeros: float, activations: str = "uint8", seed: int = 0, shared: int = 1) -> Any:
    """Makes a network.

    Args:
        name: A key of :data:`NETWORKS`, :data:`LINEAR` or :data:`LAYERS`.
        zeros: Share of zeros in the ternary layers, in [0, 1).
        activations: ``"uint8"``, with ranges of random inputs, or ``"float32"``.
        seed: Of weights and inputs.
        shared: So many neighboring output channels of a ternary layer have their zeros at the same places.

    Returns:
        ``onnx.ModelProto`` of one input ``input_0`` and one output.

    Raises:
        ValueError: An argument is not one of these.
    """
    recipes = {**NETWORKS, **LINEAR, **LAYERS}
    if name not in recipes:
        raise ValueError(f"name must be one of {', '.join(recipes)}, got {name!r}{meant(name, recipes)}")
    check_share("zeros", zeros, "[0, 1)")
    check_choice("activations", activations, ("uint8", "float32"))
    shape, make = recipes[name]
    plain = RandomNet(shape, zeros, None, seed, shared)
    model = plain.model(make(plain))
    if activations == "float32":
        return model
    net = RandomNet(shape, zeros, _ranges(model, plain.marked, shape, seed), seed, shared)
    return net.model(make(net))


def samples(name: str, seed: int = 0) -> np.ndarray:
    """Random inputs ``[SAMPLES, ...]`` of a network: those that :func:`build` takes ranges of."""
    return np.concatenate(_inputs({**NETWORKS, **LINEAR, **LAYERS}[name][0], seed))


def _inputs(shape: tuple[int, ...], seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed + 1)
    return [random.normal(size=shape).astype(np.float32) for _ in range(SAMPLES)]


def _ranges(model: Any, names: Sequence[str], shape: tuple[int, ...], seed: int) -> list[tuple[float, float]]:
    """Smallest (at most 0) and largest value of tensors over some random inputs."""
    import onnx

    from tvm_schedules.verify.reference import reference_session

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    inner = [name for name in dict.fromkeys(names) if name != "input_0" and name != model.graph.output[0].name]
    probe.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner)
    session = reference_session(probe)
    outputs = [value.name for value in probe.graph.output]
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for x in _inputs(shape, seed):
        found = {"input_0": x, **dict(zip(outputs, session.run(None, {"input_0": x}), strict=True))}
        for name in low:
            low[name] = min(low[name], float(found[name].min()))
            high[name] = max(high[name], float(found[name].max()))
    return [(low[name], high[name]) for name in names]


def plain_float(model: Any) -> Any:
    """The float network of a file of :func:`build` in opset 13, which every engine reads."""
    from tvm_schedules.frontend import onnx_model as onnxtools

    made = onnxtools.float_model(model)
    made.ir_version = 7
    made.opset_import[0].version = 13
    return made


def matmul_nbits(model: Any, block: int = 128) -> Any:
    """A file of one ternary linear layer as onnxruntime's ``MatMulNBits``: 2-bit weights, 8-bit products.

    Accuracy level 4 lets onnxruntime round the activations to 8 bits, which is its fastest way.

    Args:
        model: From :func:`build` with a name of :data:`LINEAR`.
        block: Inputs that share a scale.

    Raises:
        ValueError: The file is another one.
    """
    import onnx
    from onnx import helper, numpy_helper

    from tvm_schedules.frontend import onnx_model as onnxtools

    linear = [node for node in model.graph.node if node.op_type == "Gemm"]
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT2]
    if len(linear) != 1 or len(weights) != 1:
        raise ValueError(f"the model must be one ternary linear layer, got {len(linear)} and {len(weights)} weights")
    constants = onnxtools.constant_arrays(model)
    codes, bias = constants[weights[0].name], constants[linear[0].input[2]]
    scale = next(constants[n.input[1]] for n in model.graph.node if n.input and n.input[0] == weights[0].name)
    outputs, inputs = codes.shape
    # A stored value of 2 is zero; four values a byte, the first one lowest.
    stored = (codes.astype(np.int64) + 2).astype(np.uint8).reshape(outputs, inputs // block, block // 4, 4)
    packed = stored[..., 0] | stored[..., 1] << 2 | stored[..., 2] << 4 | stored[..., 3] << 6
    scales = np.repeat(scale.astype(np.float32), inputs // block)
    node = helper.make_node(
        "MatMulNBits", ["input_0", "weight", "scales"], ["product"], name="linear", domain="com.microsoft",
        K=inputs, N=outputs, bits=2, block_size=block, accuracy_level=4,
    )  # fmt: skip
    add = helper.make_node("Add", ["product", "bias"], ["y"], name="bias")
    tensors = {"weight": packed, "scales": scales, "bias": bias}
    graph = helper.make_graph(
        [node, add], "linear", [helper.make_tensor_value_info("input_0", onnx.TensorProto.FLOAT, [1, inputs])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, outputs])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in tensors.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
