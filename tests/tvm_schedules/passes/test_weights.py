"""Which constants are weights, and with which codes and levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tvm_schedules.errors import ModelError
from tvm_schedules.ir.graph import DenseWeight, Graph, Node, Value
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.passes import weights

CODES = np.int8([[1, -1, 0], [0, 1, 1]])


def graph_of(*nodes: Node, **constants: Any) -> Graph:
    graph = Graph("net", list(nodes), {}, {name: np.asarray(array) for name, array in constants.items()}, [], [])
    weights.run(graph)
    return graph


def dequantize(*inputs: str, out: str = "w", **attributes: Any) -> Node:
    return Node("dequantize", "DequantizeLinear", list(inputs), [out], attributes)


def by_onnx(codes: np.ndarray, scale: np.ndarray, zero: Any, axis: int) -> np.ndarray:
    from onnx import TensorProto, helper, numpy_helper

    from tests.tvm_schedules.nets import run_onnx

    parts = {"x": codes, "s": scale, **({} if zero is None else {"z": zero})}
    node = helper.make_node("DequantizeLinear", list(parts), ["y"], axis=axis)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, codes.shape)
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in parts.items()]
    graph = helper.make_graph([node], "net", [], [out], tensors)
    return run_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))[0]


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("form", ["ternary", "ternary by its zero point", "8 bits", "9 bits"])
def test_values_are_those_of_onnxruntime(axis: int, each: bool, form: str) -> None:
    codes = {
        "ternary": CODES,
        "ternary by its zero point": (CODES + 7).astype(np.uint8),
        "8 bits": np.int8([[-127, 3, 2], [127, 0, -2]]),
        "9 bits": np.uint8([[255, 3, 2], [127, 0, 9]]),
    }[form]
    channels = codes.shape[axis]
    scale = np.float32([0.5, 0.25, 3.0][:channels]) if each else np.float32(0.5)
    zero = None
    if form.startswith("ternary by"):
        zero = np.full(channels if each else (), 7, np.uint8)
    elif form == "9 bits":
        zero = np.uint8([1, 2, 3][:channels]) if each else np.uint8(5)
    constants = {"x": codes, "s": scale, **({} if zero is None else {"z": zero})}
    graph = graph_of(dequantize(*constants, axis=axis), **constants)
    assert not graph.nodes
    weight = graph.weights["w"]
    assert isinstance(weight, TernaryTensor if form.startswith("ternary") else DenseWeight)
    np.testing.assert_array_equal(weight.dequantize(), by_onnx(codes, scale, zero, axis))
    assert weight.channel_axis == (axis % 2 if each else 0)
    if isinstance(weight, DenseWeight):
        assert weight.values.dtype == (np.int8 if form == "8 bits" else np.float32)
        assert weight.scale.shape == (codes.shape[weight.channel_axis],)


@pytest.mark.parametrize(("low", "high", "dtype"), [(-127, 127, np.int8), (-128, 0, np.float32), (0, 2, np.int8)])
def test_codes_that_eight_bits_hold_with_either_sign(low: int, high: int, dtype: Any) -> None:
    weight = graph_of(dequantize("x", "s"), x=np.int8([[low, high]]), s=np.float32(1)).weights["w"]
    assert isinstance(weight, DenseWeight)
    assert weight.values.dtype == dtype
    assert weight.values.tolist() == [[low, high]]


def test_the_usual_axis_is_the_second() -> None:
    graph = graph_of(dequantize("x", "s"), x=CODES, s=np.float32([1, 2, 3]))
    assert graph.weights["w"].channel_axis == 1


@pytest.mark.parametrize(
    ("inputs", "attributes"),
    [(("x", "open"), {}), (("flat", "s"), {}), (("x", "s"), {"block_size": 2}), (("open", "s"), {})],
)
def test_what_is_no_weight(inputs: tuple[str, ...], attributes: dict[str, int]) -> None:
    graph = graph_of(dequantize(*inputs, **attributes), x=CODES, flat=CODES[0], s=np.float32(1))
    assert not graph.weights
    assert len(graph.nodes) == 1


@pytest.mark.parametrize("scales", [2, 4])
def test_scales_that_do_not_fit(scales: int) -> None:
    with pytest.raises(ModelError, match=f"{scales} scales for 3 channels on axis 1"):
        graph_of(dequantize("x", "s", axis=1), x=CODES, s=np.ones(scales, np.float32))


@pytest.mark.parametrize("perm", [None, [2, 0, 1], [1, 0, 2], [0, 2, 1], [1, 2, 0]])
@pytest.mark.parametrize("ternary", [False, True])
def test_turned(perm: list[int] | None, ternary: bool) -> None:
    codes = np.arange(24).reshape(2, 3, 4) % (3 if ternary else 19) - 1
    constants = {"x": codes.astype(np.int8), "s": np.float32([1, 2, 3])}
    turn = Node("turn", "Transpose", ["w"], ["t"], {} if perm is None else {"perm": perm})
    graph = graph_of(dequantize("x", "s", axis=1), turn, **constants)
    weight = graph.weights["t"]
    assert isinstance(weight, TernaryTensor if ternary else DenseWeight)
    want = np.transpose(constants["x"] * constants["s"][None, :, None], perm)
    np.testing.assert_array_equal(weight.dequantize(), want)
    assert weight.dequantize().shape[weight.channel_axis] == 3


def test_terms_are_added_where_their_channels_agree() -> None:
    add = Node("add", "Add", ["w", "v"], ["sum"])
    constants = {
        "x": CODES,
        "y": CODES[::-1],
        "s": np.float32([1, 2]),
        "t": np.float32([3, 5]),
        "u": np.float32([1, 1, 1]),
    }
    nodes = dequantize("x", "s", axis=0), dequantize("y", "t", out="v", axis=0)
    found = graph_of(*nodes, add, **constants).weights["sum"]
    assert isinstance(found, TernaryTensor)
    assert found.terms == 2
    want = CODES * np.float32([[1], [2]]) + CODES[::-1] * np.float32([[3], [5]])
    np.testing.assert_array_equal(found.dequantize(), want)
    other = dequantize("y", "u", out="v", axis=1)
    graph = graph_of(nodes[0], other, add, **constants)
    assert [node.op for node in graph.nodes] == ["Add"]
    np.testing.assert_array_equal(graph.constants["w"], CODES * np.float32([[1], [2]]))
    np.testing.assert_array_equal(graph.constants["v"], CODES[::-1])


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul", "ConvTranspose", "Mul"])
def test_other_readers_get_the_floats(op: str) -> None:
    reader = Node("reader", op, ["x0", "w"], ["y"])
    graph = graph_of(dequantize("x", "s"), reader, x=CODES, s=np.float32(2))
    assert ("w" in graph.constants) == (op == "Mul")
    assert graph.nodes == [reader]
    graph = graph_of(Node("reader", "Add", ["x0", "x1"], ["y"]), Node("turn", "Transpose", ["x0"], ["z"]))
    assert not graph.weights
    assert len(graph.nodes) == 2


@pytest.mark.parametrize(("fan", "axis", "ternary"), [(8, 0, True), (7, 0, False), (8, 1, True), (7, 1, False)])
def test_floats_of_three_values(fan: int, axis: int, ternary: bool) -> None:
    values = np.resize(np.float32([0.5, 0, -0.5]), (2, fan))
    values = values if axis == 0 else values.T
    graph = Graph("net", [], {"v": Value("v", (1,), "float32")}, {"w": values, "n": values.astype(np.float64)}, [], [])
    weight = weights.as_weight(graph, "w", axis)
    assert isinstance(weight, TernaryTensor if ternary else DenseWeight)
    assert weight.channel_axis == axis
    np.testing.assert_array_equal(weight.dequantize(), values)
    assert weights.as_weight(graph, "n", axis) is None
    assert weights.as_weight(graph, "v", axis) is None
    graph.constants["w"] = values + np.arange(values.size, dtype=np.float32).reshape(values.shape)
    dense = weights.as_weight(graph, "w", axis)
    assert isinstance(dense, DenseWeight)
    assert dense.scale.tolist() == [1, 1]
    graph.weights["w"] = weight
    assert weights.as_weight(graph, "w", axis) is weight


@pytest.mark.parametrize("rounded", [False, True])
def test_a_vector_is_no_weight_of_a_layer(rounded: bool) -> None:
    net = Net((3, 8))
    x = net.quantize("input_0", 0.02, 128) if rounded else "input_0"
    model = net.model(net.op("MatMul", x, net.const(np.arange(8, dtype=np.float32))))
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    np.testing.assert_allclose(Runner(model)(x)[0], run_onnx(model, x)[0], rtol=1e-5, atol=1e-5)
