"""A small network of every operator without a kernel of its own, over odd shapes.

The tests compare each with onnxruntime, for the CPU and for OpenCL, and the documentation lists their operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Build = Callable[[], onnx.ModelProto]
RNG = np.random.default_rng(0)
I64 = TensorProto.INT64


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def graph(
    nodes: list[Any],
    inputs: dict[str, tuple[int, ...]],
    outputs: str = "y",
    constants: dict[str, np.ndarray] | None = None,
    types: dict[str, int] | None = None,
    opset: int = 22,
) -> onnx.ModelProto:
    types = types or {}
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(k, types.get(k, TensorProto.FLOAT), s) for k, s in inputs.items()],
        [helper.make_tensor_value_info(k, types.get(k, TensorProto.FLOAT), None) for k in outputs.split()],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def unary(op: str, *shape: int, opset: int = 22, **attributes: Any) -> onnx.ModelProto:
    return graph([helper.make_node(op, ["x"], ["y"], **attributes)], {"x": shape}, opset=opset)


def binary(op: str, a: tuple[int, ...], b: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    return graph([helper.make_node(op, ["a", "b"], ["y"], **attributes)], {"a": a, "b": b})


def with_constants(op: str, shape: tuple[int, ...], *constants: np.ndarray | None, opset: int = 22, **attributes: Any):
    names = ["" if c is None else f"c{i}" for i, c in enumerate(constants)]
    known = {n: c for n, c in zip(names, constants, strict=True) if c is not None}
    return graph([helper.make_node(op, ["x", *names], ["y"], **attributes)], {"x": shape}, "y", known, opset=opset)


def quantized() -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    return graph(nodes, {"x": (3, 17)}, constants={"s": np.float32(0.05), "z": np.uint8(7)})


def per_channel() -> onnx.ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=0),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    weight = RNG.integers(-128, 128, (7, 5)).astype(np.int8)
    return graph(nodes, {"x": (3, 7)}, constants={"w": weight, "s": np.abs(f(7)) + 0.01})


def reshapes() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Concat", ["n", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["y"]),
        helper.make_node("Transpose", ["y"], ["z"], perm=[0, 2, 1]),
    ]
    return graph(nodes, {"x": (3, 4, 5)}, "y z", {"zero": ints(0), "rest": ints(2, -1)})


def embedding() -> onnx.ModelProto:
    return graph(
        [helper.make_node("Gather", ["w", "i"], ["y"])], {"i": (2, 5)}, constants={"w": f(11, 6)}, types={"i": I64}
    )


def split(shape: tuple[int, ...], axis: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Split", ["x", "s"], ["y", "z", "w"], axis=axis)]
    return graph(nodes, {"x": shape}, "y z w", {"s": ints(1, shape[axis] - 3, 2)})


def concat(*shapes: tuple[int, ...]) -> onnx.ModelProto:
    names = ["a", "b", "c"]
    node = helper.make_node("Concat", names, ["y"], axis=1)
    return graph([node], dict(zip(names, shapes, strict=True)))


def same() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Relu", ["x"], ["z"]),
        helper.make_node("Identity", ["z"], ["w"]),
    ]
    return graph(nodes, {"x": (2, 3)}, "y z w", {"c": f(2)})


def where() -> onnx.ModelProto:
    nodes = [helper.make_node("Greater", ["a", "b"], ["c"]), helper.make_node("Where", ["c", "a", "b"], ["y"])]
    return graph(nodes, {"a": (3, 1, 5), "b": (4, 1)})


def batch_norm(*shape: int) -> onnx.ModelProto:
    c = shape[1]
    return with_constants("BatchNormalization", shape, f(c), f(c), f(c), np.abs(f(c)) + 0.1)


def conv(shape: tuple[int, ...], weight: tuple[int, ...], bias: bool = True, op: str = "Conv", **attributes: Any):
    channels = weight[0] if op == "Conv" else weight[1] * attributes.get("group", 1)
    constants = [f(*weight), *([f(channels)] if bias else [])]
    return with_constants(op, shape, *constants, **attributes)


def transposed(*args: Any, **attributes: Any) -> onnx.ModelProto:
    return conv(*args, op="ConvTranspose", **attributes)


def attention(opset: int = 23, **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], **attributes)
    return graph([node], {"q": (2, 4, 7, 8), "k": (2, 2, 5, 8), "v": (2, 2, 5, 6)}, opset=opset)


CASES: dict[str, Build] = {
    **{
        f"{op}": (lambda op=op: unary(op, 3, 7, 5))
        for op in ["Sigmoid", "HardSwish", "Tanh", "Exp", "Erf", "Elu", "Softplus", "Mish", "Relu", "LeakyRelu",
        "HardSigmoid", "Abs", "Neg", "Floor", "Sign", "Sin"]
    },
    **{
        f"Pow {power}": (lambda power=power: with_constants("Pow", (5, 33), np.float32(power)))
        for power in (-2, -1, -0.5, 0.5, 1, 1.5, 2, 3, 4)
    },
    "Pow of a row": lambda: with_constants("Pow", (5, 33), np.full((1, 33), 2, np.float32)),
    "Pow by rows": lambda: with_constants("Pow", (1, 33), np.full((5, 33), 2, np.float32)),
    "Gelu": lambda: unary("Gelu", 5, 33),
    "Gelu tanh": lambda: unary("Gelu", 5, 33, approximate="tanh"),
    "Swish": lambda: unary("Swish", 3, 7, opset=24),
    "Celu": lambda: unary("Celu", 3, 7),
    "HardSwish large": lambda: unary("HardSwish", 3, 31, 37, 13),
    "Softmax rows": lambda: unary("Softmax", 5, 37, axis=-1),
    "Softmax one": lambda: unary("Softmax", 3, 1, axis=-1),
    "Softmax columns": lambda: unary("Softmax", 2, 5, 131, axis=1),
    "Softmax large": lambda: unary("Softmax", 64, 1000, axis=-1),
    "LogSoftmax": lambda: unary("LogSoftmax", 4, 19, axis=-1),
    "LogSoftmax columns": lambda: unary("LogSoftmax", 2, 19, 3, 3, axis=1),
    "LayerNormalization": lambda: with_constants("LayerNormalization", (2, 7, 19), f(19), f(19), axis=-1),
    "LayerNormalization axes": lambda: with_constants("LayerNormalization", (2, 7, 19), f(7, 19), f(7, 19), axis=1),
    "LayerNormalization large": lambda: with_constants("LayerNormalization", (67, 768), f(768), f(768)),
    "RMSNormalization": lambda: with_constants("RMSNormalization", (5, 33), f(33), opset=23),
    "InstanceNormalization": lambda: with_constants("InstanceNormalization", (2, 3, 5, 7), f(3), f(3)),
    "GroupNormalization": lambda: with_constants("GroupNormalization", (2, 6, 5, 3), f(6), f(6), num_groups=3),
    "BatchNormalization": lambda: batch_norm(2, 5, 3, 3),
    "LRN": lambda: unary("LRN", 1, 7, 3, 5, size=3),
    **{
        f"{op} {axes}": (lambda op=op, axes=axes: with_constants(op, (3, 5, 1, 17), ints(*axes), keepdims=axes[0] % 2))
        for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2")
        for axes in ((3,), (1, 2), (0, 3))
    },
    "ReduceMean all": lambda: unary("ReduceMean", 3, 67),
    "ReduceMean large": lambda: with_constants("ReduceMean", (7, 300, 131), ints(1)),
    "ArgMax": lambda: graph([helper.make_node("ArgMax", ["x"], ["y"], axis=1)], {"x": (3, 11)}, types={"y": I64}),
    "Concat": lambda: concat((2, 3, 5), (2, 1, 5), (2, 7, 5)),
    "Concat large": lambda: concat((37, 31, 15), (37, 2, 15), (37, 33, 15)),
    "Concat same": lambda: graph([helper.make_node("Concat", ["a", "a"], ["y"], axis=-1)], {"a": (2, 3)}),
    "Split": lambda: split((2, 9, 3), 1),
    "Slice": lambda: with_constants("Slice", (5, 9), ints(1, 8), ints(4, 0), ints(0, 1), ints(1, -3)),
    "Transpose": lambda: unary("Transpose", 2, 3, 5, 7, perm=[0, 2, 3, 1]),
    "Transpose square": lambda: unary("Transpose", 2, 33, 3, 17, perm=[0, 3, 2, 1]),
    "Transpose of an image": lambda: unary("Transpose", 1, 21, 5, 7, perm=[0, 2, 3, 1]),
    "Transpose of blocks": lambda: unary("Transpose", 3, 16, 1, 2, 50, perm=[4, 0, 2, 3, 1]),
    "Transpose whole": lambda: unary("Transpose", 18, 5, 40),
    "Transpose large": lambda: unary("Transpose", 4, 67, 131, perm=[0, 2, 1]),
    "Reshape of Shape": reshapes,
    "Identity": same,
    "Gather": embedding,
    "Where": where,
    "Pad": lambda: with_constants("Pad", (2, 3, 5), ints(0, 1, 2, 1, 0, 3)),
    "Pad reflect": lambda: with_constants("Pad", (1, 2, 5, 5), ints(0, 0, 1, 2, 0, 0, 2, 1), mode="reflect"),
    "Expand": lambda: with_constants("Expand", (3, 1), ints(2, 3, 5)),
    "Tile": lambda: with_constants("Tile", (3, 2), ints(2, 3)),
    "DepthToSpace": lambda: unary("DepthToSpace", 1, 8, 3, 5, blocksize=2),
    "Resize nearest": lambda: with_constants("Resize", (1, 3, 5, 7), None, np.array([1, 1, 2, 2], np.float32)),
    "Resize linear": lambda: with_constants("Resize", (1, 3, 5, 7), None, np.float32([1, 1, 3, 2]), mode="linear"),
    "Clip": lambda: with_constants("Clip", (3, 7), np.float32(-0.5), np.float32(0.7)),
    "PRelu": lambda: with_constants("PRelu", (2, 3, 5), f(3, 1)),
    "Pow": lambda: with_constants("Pow", (3, 7), np.float32(2)),
    "Add": lambda: binary("Add", (2, 3, 1, 5), (3, 7, 1)),
    "Mul scalar": lambda: binary("Mul", (3, 5), ()),
    "MatMul": lambda: binary("MatMul", (5, 7), (7, 3)),
    "MatMul vector": lambda: binary("MatMul", (7,), (7, 3)),
    "MatMul one": lambda: binary("MatMul", (1, 64), (64, 33)),
    "MatMul large": lambda: binary("MatMul", (67, 65), (65, 97)),
    "MatMul batched": lambda: binary("MatMul", (2, 3, 17, 8), (2, 3, 8, 37)),
    "MatMul broadcast": lambda: binary("MatMul", (2, 1, 5, 8), (3, 8, 33)),
    "MatMul broadcast left": lambda: binary("MatMul", (4, 5), (3, 5, 35)),
    "MatMul weight": lambda: with_constants("MatMul", (2, 5, 19), f(19, 71)),
    "Gemm": lambda: with_constants("Gemm", (3, 19), f(35, 19), f(35), transB=1, alpha=0.5),
    "Einsum": lambda: binary("Einsum", (2, 5, 7), (2, 3, 7), equation="bid,bjd->bij"),
    "Attention": lambda: attention(),
    "Attention causal": lambda: attention(is_causal=1),
    "MaxPool": lambda: unary("MaxPool", 2, 3, 11, 13, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool ceil": lambda: unary("MaxPool", 1, 3, 10, 9, kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1),
    "MaxPool 1d": lambda: unary("MaxPool", 1, 3, 11, kernel_shape=[3], dilations=[2]),
    "MaxPool large": lambda: unary("MaxPool", 1, 17, 56, 56, kernel_shape=[2, 2], strides=[2, 2]),
    "AveragePool": lambda: unary("AveragePool", 2, 3, 11, 13, kernel_shape=[3, 3], strides=[2, 1], pads=[1, 0, 1, 1]),
    "AveragePool pad": lambda: unary("AveragePool", 1, 2, 7, 7, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    "AveragePool ceil": lambda: unary("AveragePool", 1, 2, 8, 8, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "AveragePool 3d": lambda: unary("AveragePool", 1, 2, 5, 6, 7, kernel_shape=[2, 3, 2]),
    "GlobalAveragePool": lambda: unary("GlobalAveragePool", 2, 5, 7, 7),
    "GlobalMaxPool": lambda: unary("GlobalMaxPool", 2, 5, 3, 1),
    "Conv": lambda: conv((2, 5, 9, 11), (37, 5, 3, 3), pads=[1, 1, 1, 1], strides=[2, 1]),
    "Conv 1x1 image": lambda: conv((1, 7, 1, 1), (33, 7, 1, 1)),
    "Conv padded 1x1 image": lambda: conv((1, 4, 1, 1), (16, 4, 3, 3), pads=[1, 1, 1, 1]),
    "Conv large": lambda: conv((1, 16, 28, 28), (32, 16, 3, 3), pads=[1, 1, 1, 1]),
    "Conv grouped": lambda: conv((2, 6, 7, 7), (60, 2, 3, 3), group=3, pads=[0, 1, 2, 1]),
    "Conv depthwise": lambda: conv((1, 7, 19, 21), (7, 1, 3, 3), group=7, pads=[1, 1, 1, 1]),
    "Conv depthwise stride": lambda: conv((1, 6, 19, 21), (12, 1, 5, 5), group=6, strides=[2, 2], pads=[2, 2, 2, 2]),
    "Conv narrow": lambda: conv((1, 3, 1, 5), (2, 3, 1, 3), dilations=[1, 2]),
    "Conv 1d": lambda: conv((2, 5, 31), (20, 5, 4), strides=[3], pads=[2, 1]),
    "Conv 3d": lambda: conv((1, 3, 5, 6, 7), (17, 3, 3, 2, 3), pads=[1, 0, 1, 1, 1, 1]),
    "Conv 3d few": lambda: conv((1, 3, 5, 6, 7), (2, 3, 3, 2, 3), False),
    "Conv dilated": lambda: conv((1, 3, 13, 13), (16, 3, 3, 3), dilations=[2, 3]),
    "ConvTranspose": lambda: transposed((1, 6, 5, 7), (6, 5, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1]),
    "ConvTranspose few": lambda: transposed((1, 3, 5, 3), (3, 1, 2, 2)),
    "ConvTranspose odd": lambda: transposed((2, 4, 5, 3), (4, 3, 3, 2), strides=[2, 3], output_padding=[1, 1]),
    "ConvTranspose grouped": lambda: transposed((1, 6, 4, 4), (6, 4, 3, 3), group=2, strides=[2, 2], pads=[1, 0, 0, 1]),
    "ConvTranspose dilated": lambda: transposed((1, 3, 4, 4), (3, 9, 3, 3), strides=[2, 2], dilations=[2, 2]),
    "ConvTranspose 1d": lambda: transposed((2, 3, 9), (3, 17, 5), strides=[3], pads=[2, 2]),
    "ConvTranspose 3d": lambda: transposed((1, 3, 3, 4, 2), (3, 4, 2, 3, 2), strides=[2, 1, 2]),
    "ConvTranspose large": lambda: transposed((1, 32, 12, 12), (32, 24, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1]),
    "QuantizeLinear": quantized,
    "DequantizeLinear": per_channel,
    "CumSum": lambda: with_constants("CumSum", (3, 7), np.array(1, np.int64)),
}  # fmt: skip
