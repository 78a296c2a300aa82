"""What takes a node into a layer before it, and what keeps it out: conditions of fusion one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.tvm_schedules.nets import Net
from tests.tvm_schedules.passes.test_passes import check, values
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.ir.graph import Clip, DenseWeight, Fused, GlobalPool, Graph, Linear, Node, Pool, Value, Windowed
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.passes import fuse, prepare
from tvm_schedules.passes.activations import split

IMAGE = (1, 4, 6, 5)


def conv(net: Net, x: str = "input_0", **attrs: Any) -> str:
    return net.op("Conv", x, net.weight((4, 4, 3, 3), 0.5), net.bias(4), pads=[1] * 4, **attrs)


def ops(net: Net, *outputs: str) -> list[str]:
    """Nodes behind fusion: the class of those with kernels, the operator of others."""
    graph = prepare(read(net.model(*outputs)))
    return [type(node).__name__ if isinstance(node, Fused) else node.op for node in graph.nodes]


def number(net: Net, value: float) -> str:
    return net.const(np.float32(value))


def largest(net: Net) -> str:
    """A number that is computed."""
    return net.op("ReduceMax", "input_0", keepdims=0)


@pytest.mark.parametrize(
    ("bounds", "found"),
    [((), Clip()), (("low",), Clip(-0.5)), (("", "high"), Clip(-np.inf, 0.25)), (("low", "high"), Clip(-0.5, 0.25))],
)
def test_bounds_that_are_given(bounds: tuple[str, ...], found: Clip) -> None:
    net = Net(IMAGE)
    names = [number(net, -0.5 if bound == "low" else 0.25) if bound else "" for bound in bounds]
    (node,) = check(net, net.op("Clip", conv(net), *names), fused=1).nodes
    assert isinstance(node, Windowed)
    assert node.clip == found


@pytest.mark.parametrize("first", ["Relu", "Clip"])
def test_bounds_of_one_after_the_other(first: str) -> None:
    net = Net(IMAGE)
    low, high = number(net, -0.5), number(net, 0.25)
    y = conv(net)
    for op in (first, "Clip" if first == "Relu" else "Relu"):
        y = net.op(op, y, *((low, high) if op == "Clip" else ()))
    (node,) = check(net, net.op("Clip", y, "", number(net, 0.75)), fused=1).nodes
    assert isinstance(node, Windowed)
    assert node.clip == Clip(0.0, 0.25)


@pytest.mark.parametrize("which", [0, 1])
def test_a_computed_bound_stays(which: int) -> None:
    net = Net(IMAGE)
    bounds = [largest(net), number(net, 3)]
    assert ops(net, net.op("Clip", conv(net), *bounds[:: -1 if which else 1])).count("Clip") == 1


@pytest.mark.parametrize(
    ("op", "shape", "fits"),
    [
        ("Reshape", (6, 5), True), ("Reshape", (1, 6, 5), True), ("Reshape", (5, 6), False), ("Reshape", (30,), False),
        ("Unsqueeze", (1, 2, 3, 5), True),
    ],
)  # fmt: skip
def test_rows_of_a_linear_layer_may_be_arranged_anew(op: str, shape: tuple[int, ...], fits: bool) -> None:
    for before in (False, True):  # a residual has the shape that it has
        net = Net((2, 3, 6))
        y = net.op("MatMul", "input_0", net.weight((6, 5), None))
        if before:
            net.inputs.append(onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, (2, 3, 5)))
            y = net.op("Add", y, "other")
        y = net.op(op, y, net.const(np.array([0] if op == "Unsqueeze" else shape)))
        assert ops(net, y) == ["Linear"] + [op] * (before or not fits)


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (1, 4, 6, 5), (1, 4, 6, 1), (1, 4, 1, 1)])
def test_a_layer_whose_result_is_repeated_for_a_constant(op: str, shape: tuple[int, ...]) -> None:
    net = Net((1, 4, 1, 1))
    same = shape == (1, 4, 1, 1)
    check(net, net.op(op, conv(net), net.const(values(*shape))), fused=1 if same else 2)


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("wide", [False, True])
def test_a_residual_is_added_and_has_the_shape_of_the_sum(op: str, wide: bool) -> None:
    net = Net((1, 4, 1, 1) if wide else IMAGE)
    if wide:  # the sum has the shape of the other
        net.inputs.append(onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, IMAGE))
    y = net.op(op, conv(net), "other" if wide else "input_0")
    assert ops(net, y) == (["Windowed"] if op == "Add" and not wide else ["Windowed", op])


def test_one_residual_is_added() -> None:
    net = Net(IMAGE)
    y = net.op("Add", net.op("Add", conv(net), "input_0"), "input_0")
    assert ops(net, y) == ["Windowed", "Pool"]
    node = prepare(read(net.model(y))).nodes[1]
    assert isinstance(node, Pool)
    assert (node.op, node.residual, node.inputs[1]) == ("Add", "input_0", "input_0")


def test_a_mean_has_no_residual() -> None:
    net = Net(IMAGE)
    mean, most = net.op("GlobalAveragePool", "input_0"), net.op("ReduceMax", "input_0", net.const(np.int64([2, 3])))
    assert ops(net, net.op("Add", mean, most)) == ["GlobalPool", "ReduceMax", "Add"]


MEANS = [
    ((2, 3), 4, True), ((-2, -1), 4, True), ((3, 2), 4, True), ((2, -1), 4, True), ((2,), 3, True),
    ((2, 3, 4), 5, True), ((2,), 4, False), ((1, 2, 3), 4, False), ((1, 2), 4, False), ((0, 1), 2, False),
    ((), 3, False), ((2, 3, 4, 5), 6, False),
]  # fmt: skip


@pytest.mark.parametrize(("axes", "rank", "fits"), MEANS)
@pytest.mark.parametrize("attribute", [False, True])
def test_means_of_all_pixels(axes: tuple[int, ...], rank: int, fits: bool, attribute: bool) -> None:
    shape = (2, 4, 3, 5, 2, 2)[:rank]
    node = Node("mean", "ReduceMean", ["x"] if attribute or not axes else ["x", "axes"], ["y"])
    if attribute and axes:
        node.attrs["axes"] = list(axes)
    known = {"x": Value("x", shape, "float32"), "y": Value("y", (2, 4, *[1] * (rank - 2)), "float32")}
    graph = Graph("net", [node], known, {"axes": np.array(axes, np.int64)}, ["x"], ["y"])
    fuse.run(graph)
    assert isinstance(graph.nodes[0], GlobalPool) == fits


@pytest.mark.parametrize("case", ["indices", "columns first", "counted pads"])
def test_poolings_that_are_left_alone(case: str) -> None:
    net = Net(IMAGE)
    window: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    if case == "indices":
        graph = read(net.model(net.op("MaxPool", "input_0", **window)))
        graph.nodes[0].outputs.append("indices")
        assert not isinstance(prepare(graph).nodes[0], Fused)
    elif case == "columns first":
        assert ops(net, net.op("MaxPool", "input_0", **window, storage_order=1)) == ["MaxPool"]
    else:
        more = {"ceil_mode": 1, "count_include_pad": 1}
        assert ops(net, net.op("AveragePool", "input_0", **window, **more)) == ["AveragePool"]
        # Without a column behind the end, pads count or do not.
        net = Net((1, 4, 6, 6))
        y = net.op("AveragePool", "input_0", kernel_shape=[2, 2], strides=[2, 2], pads=[1] * 4, **more)
        (node,) = check(net, y, fused=1).nodes
        assert isinstance(node, Pool)
        assert node.include_pad


def test_pixels_behind_the_end_are_padding() -> None:
    net = Net((1, 2, 7, 8, 9))
    y = net.op("MaxPool", "input_0", kernel_shape=[3, 2, 2], strides=[2, 3, 4], dilations=[1, 2, 1], ceil_mode=1,
               pads=[0, 1, 0, 0, 0, 0])  # fmt: skip
    (node,) = check(net, y, fused=1).nodes
    assert isinstance(node, Pool)
    assert (node.window.pads, node.kind) == (((0, 0), (1, 0), (0, 1)), "max")


@pytest.mark.parametrize("layer", ["Conv", "Gemm"])
def test_a_bias_that_is_computed(layer: str) -> None:
    net = Net(IMAGE if layer == "Conv" else (3, 4))
    bias = net.op("Expand", largest(net), net.const(np.int64([4])))
    kernel = (4, 4, 3, 3) if layer == "Conv" else (4, 4)
    attrs = {} if layer == "Conv" else {"transB": 1}
    assert layer in ops(net, net.op(layer, "input_0", net.weight(kernel, 0.5), bias, **attrs))


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 5), (1, 1)])
def test_biases_of_any_shape(shape: tuple[int, ...]) -> None:
    net = Net((3, 6))
    check(net, net.op("Gemm", "input_0", net.weight((5, 6), None), net.const(values(*shape)), transB=1), fused=1)


@pytest.mark.parametrize(("rank", "fits"), [(3, True), (4, True), (5, True), (2, False)])
def test_images_have_one_to_three_dimensions(rank: int, fits: bool) -> None:
    net = Net((1, 3, 5, 6, 4)[:rank])
    if fits:
        check(net, net.op("Conv", "input_0", net.weight((4, 3, *[2] * (rank - 2)), 0.5)), fused=1)
    else:
        assert ops(net, net.op("Relu", "input_0")) == ["Relu"]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "GlobalAveragePool"])
@pytest.mark.parametrize(("rank", "fits"), [(3, True), (4, True), (5, True), (6, False)])
def test_images_that_are_pooled_have_one_to_three_dimensions(op: str, rank: int, fits: bool) -> None:
    shape = (1, 3, 6, 5, 4, 7)[:rank]
    if fits and op != "GlobalAveragePool":
        net = Net(shape)
        check(net, net.op(op, "input_0", kernel_shape=[2] * (rank - 2)), fused=1)
    small = (1, 3, *(n - 1 for n in shape[2:]))
    node = Node("pool", op, ["x"], ["y"], {"kernel_shape": [2] * (rank - 2)})
    graph = Graph(
        "net", [node], {"x": Value("x", shape, "float32"), "y": Value("y", small, "float32")}, {}, ["x"], ["y"]
    )
    fuse.run(graph)
    assert isinstance(graph.nodes[0], Pool | GlobalPool) == fits


def test_products_of_more_than_matrices_are_no_layers() -> None:
    net = Net((2, 3, 6))
    assert ops(net, net.op("MatMul", "input_0", net.const(values(2, 6, 4)))) == ["MatMul"]


@pytest.mark.parametrize("zeros", [0.4, None])
def test_one_scale_for_all_channels_fits_either_axis(zeros: float | None) -> None:
    """As a file has one scale without an axis, which counts as one of the first."""
    net = Net((3, 12))
    codes = net.const((net.codes((12, 5), zeros) if zeros else np.arange(60).reshape(12, 5) - 30).astype(np.int8))
    weight = net.op("DequantizeLinear", codes, net.const(np.float32(0.3)))
    (node,) = check(net, net.op("MatMul", "input_0", weight), fused=1).nodes
    assert isinstance(node, Linear)
    assert isinstance(node.weight, TernaryTensor if zeros else DenseWeight)
    assert node.weight is not None
    assert node.weight.channel_axis == 0


@pytest.mark.parametrize("case", ["planes", "no planes", "an image", "another size", "bytes", "a vector"])
def test_gates_are_one_number_a_plane(case: str) -> None:
    net = Net(IMAGE)
    x = "input_0" if case == "no planes" else conv(net)
    gate = net.op("ReduceMax", "input_0", net.const(np.int64([2, 3])))
    if case == "an image":
        gate = net.op("Sigmoid", "input_0")
    elif case == "another size":
        gate = net.op("ReduceMax", "input_0", net.const(np.int64([3])))
    elif case == "a vector":
        gate = net.op("ReduceMax", "input_0", net.const(np.int64([1, 2, 3])))
    elif case == "bytes":
        x, gate = net.op("Cast", x, to=10), net.op("Cast", gate, to=10)
    for pair in ((x, gate), (gate, x)):
        y = net.op("Mul", *pair)
        graph = prepare(read(net.model(net.op("Relu", net.op("Cast", y, to=1) if case == "bytes" else y))))
        pools = [node for node in graph.nodes if isinstance(node, Pool)]
        assert [(node.gate, node.inputs) for node in pools] == ([(gate, [x, gate])] if case == "planes" else [])
        if case == "planes":
            assert pools[0].clip == Clip(0.0)
            assert [node.op for node in pools[0].tail] == ["Mul", "Relu"]


def test_planes_of_bytes_are_gated_as_they_are() -> None:
    net = Net(IMAGE)
    x = net.quantize(conv(net), 0.02, 90)
    gate = net.op("ReduceMax", "input_0", net.const(np.int64([2, 3])))
    graph = prepare(read(net.model(net.op("Mul", gate, x))))
    (pool,) = [node for node in graph.nodes if isinstance(node, Pool)]
    assert graph.values[pool.inputs[0]].quant is not None
    assert (pool.inputs[1], [node.op for node in pool.tail]) == (gate, ["DequantizeLinear", "Mul"])
    apart = split(graph, lambda node: False)
    assert [node.op for node in apart.nodes if node.op in ("Mul", "DequantizeLinear")] == ["DequantizeLinear", "Mul"]


@pytest.mark.parametrize("op", ["Add", "Relu", "Clip", "BatchNormalization", "Sigmoid"])
@pytest.mark.parametrize("planes", [False, True])
def test_what_follows_planes_that_others_read_too(op: str, planes: bool) -> None:
    """Where a layer before it cannot take it, it is a pooling of one pixel."""
    net = Net(IMAGE)
    x = conv(net) if planes else net.op("Sigmoid", "input_0")
    operands = {
        "Add": [number(net, 0.5)],
        "Clip": [number(net, 0), number(net, 1)],
        "BatchNormalization": [net.const(np.abs(values(4, seed=i)) + 0.1) for i in range(4)],
    }
    y = net.op(op, x, *operands.get(op, []))
    graph = prepare(read(net.model(x, y)))
    node = graph.nodes[-1]
    assert isinstance(node, Pool) == (planes and op != "Sigmoid")
    if isinstance(node, Pool):
        assert (node.inputs, node.outputs, node.fused) == ([x], [y], [node.name])
        assert node.window.kernel == (1, 1, 1)
        if op != "Sigmoid":
            check(net, x, y)


@pytest.mark.parametrize("planes", [False, True])
def test_sums_of_planes(planes: bool) -> None:
    net = Net(IMAGE)
    x = conv(net) if planes else net.op("Sigmoid", "input_0")
    y = net.op("Add", x, "input_0")
    graph = prepare(read(net.model(x, y)))
    assert isinstance(graph.nodes[-1], Pool) == planes
    # With a tensor of another shape there is nothing to add in planes.
    y = net.op("Add", x, net.op("ReduceMax", "input_0", net.const(np.int64([2, 3]))))
    assert not isinstance(prepare(read(net.model(x, y))).nodes[-1], Fused)
