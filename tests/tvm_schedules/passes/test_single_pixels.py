"""Convolutions of one pixel are linear layers, with the same results; others stay convolutions."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.ir.graph import Graph, Linear, Windowed
from tvm_schedules.passes import single_pixels, weights
from tvm_schedules.pipeline import read_graph

SHAPE = (2, 24, 5, 7)


def excitation(kernel: int, act: str, dense: bool = False) -> object:
    """Squeeze-and-excitation with a classifier of one pixel behind it."""
    net = Net(SHAPE)
    attrs = {"pads": [kernel // 2] * 4}
    x = net.quantize("input_0", 0.03, 100)
    y = net.quantize(net.op("GlobalAveragePool", x), 0.02, 90)
    y = net.op("Conv", y, net.weight((8, 24, kernel, kernel), None if dense else 0.5, int8=dense), net.bias(8), **attrs)
    y = net.quantize(net.op(act, y), 0.01, 30)
    gate = net.op("HardSigmoid", net.op("Conv", y, net.weight((24, 8, 1, 1), 0.3)), alpha=1 / 6)
    y = net.quantize(net.op("GlobalAveragePool", net.op("Mul", x, gate)), 0.02, 90)
    return net.model(net.op("Flatten", net.op("Conv", y, net.weight((33, 24, 1, 1), 0.5), net.bias(33))))


def kinds(model: object) -> list[type]:
    return [type(node) for node in read_graph(model).nodes if isinstance(node, Linear | Windowed)]


@pytest.mark.parametrize(("act", "dense"), [("Relu", False), ("HardSwish", True)])
def test_results_are_those_of_convolutions(act: str, dense: bool) -> None:
    model = excitation(1, act, dense)
    assert kinds(model) == [Linear] * 3
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    runner = Runner(model)
    assert {"linear", "linear_dot", "linear_pairs", "popcount_linear"} & {step.kernel for step in runner.plan.steps}
    np.testing.assert_allclose(runner(x)[0], run_onnx(model, x)[0], atol=0.05)


def test_activations_of_rows_are_part_of_the_layer() -> None:
    layer = next(node for node in read_graph(excitation(1, "Relu")).nodes if isinstance(node, Linear))
    assert layer.clip.low == 0
    assert len(layer.fused) == 2


def test_padding_makes_more_than_one_pixel() -> None:
    model = excitation(3, "Relu")
    assert kinds(model) == [Windowed, Linear, Linear]
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    np.testing.assert_allclose(Runner(model)(x)[0], run_onnx(model, x)[0], atol=0.05)


def test_larger_images_stay_convolutions() -> None:
    net = Net(SHAPE)
    y = net.op("Conv", net.quantize("input_0", 0.03, 100), net.weight((8, 24, 1, 1), 0.5), net.bias(8))
    assert kinds(net.model(y)) == [Windowed]


def written(net: Net, out: str) -> Graph:
    graph = read(net.model(out))
    weights.run(graph)
    single_pixels.run(graph)
    return graph


def pixel(net: Net, rows: int = 8) -> str:
    """A convolution of one pixel of 8 bits."""
    return net.op("Conv", net.quantize("input_0", 0.03, 100), net.weight((rows, 24, 1, 1), 0.5), net.bias(rows))


def behind(net: Net, out: str) -> list[str]:
    """Operators from the product on; the last Reshape makes an image of its rows."""
    graph = written(net, out)
    ops = [node.op for node in graph.nodes]
    for node in graph.nodes[ops.index("Gemm") :]:
        shape = graph.values[node.outputs[0]].shape
        image = "Reshape" in ops[ops.index("Gemm") : graph.nodes.index(node) + 1]
        assert shape == ((2, 8, 1, 1) if image else (2, 8)), node.op
    return ops[ops.index("Gemm") :]


PIXEL = (2, 24, 1, 1)


@pytest.mark.parametrize("bounds", [("low", "high"), ("low",), ("", "high"), ()])
def test_operators_of_single_numbers_move_before_the_image(bounds: tuple[str, ...]) -> None:
    net = Net(PIXEL)
    names = [net.const(np.float32(0.5)) if bound else "" for bound in bounds]
    assert behind(net, net.op("Relu", net.op("Clip", pixel(net), *names))) == ["Gemm", "Clip", "Relu", "Reshape"]


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_scale_of_every_channel_keeps_its_axis(size: int) -> None:
    net = Net((2, 24, 1, 1))
    scale, zero = net.const(np.full(size, 0.5, np.float32)), net.const(np.full(size, 3, np.uint8))
    y = net.op("QuantizeLinear", pixel(net, size if size > 1 else 8), scale, zero, axis=1)
    graph = written(net, net.op("DequantizeLinear", y, scale, zero, axis=1))
    ops = [node.op for node in graph.nodes]
    moved = ["Gemm", "QuantizeLinear", "DequantizeLinear", "Reshape"]
    assert ops[ops.index("Gemm") :] == (moved if size == 1 else ["Gemm", "Reshape", *moved[1:3]])


@pytest.mark.parametrize("what", ["another operator", "a computed bound", "two readers", "an output"])
def test_an_image_that_is_needed_stays_where_it_is(what: str) -> None:
    net = Net(PIXEL)
    y = pixel(net)
    outputs = [y] if what == "an output" else []
    if what == "another operator":
        outputs.append(net.op("Softmax", y, axis=1))
    elif what == "a computed bound":
        outputs.append(net.op("Clip", y, "", net.op("ReduceMax", "input_0", keepdims=0)))
    elif what == "two readers":
        outputs.append(net.op("Add", net.op("Relu", y), net.op("Sigmoid", y)))
    else:
        outputs.append(net.op("Relu", y))
    graph = read(net.model(*outputs))
    weights.run(graph)
    single_pixels.run(graph)
    after = next(i for i, node in enumerate(graph.nodes) if node.op == "Gemm") + 1
    assert graph.nodes[after].op == "Reshape"
    assert graph.nodes[after].outputs == [y]


@pytest.mark.parametrize(
    ("case", "fits"),
    [
        ("one pixel", True), ("a volume", True), ("no bias", True), ("floats", False), ("groups", False),
        ("pads on a small output", False), ("pads on a small input", False), ("a computed bias", False),
        ("a computed weight", False), ("scales along the inputs", False),
    ],
)  # fmt: skip
def test_which_convolutions_are_linear_layers(case: str, fits: bool) -> None:
    net = Net((2, 8, 1, 1, 1) if case == "a volume" else (2, 8, 1, 1))
    x = "input_0" if case == "floats" else net.quantize("input_0", 0.03, 100)
    shape = {"groups": (8, 4, 1, 1), "a volume": (8, 8, 1, 1, 1), "pads on a small output": (8, 8, 3, 3)}
    weight = net.weight(shape.get(case, (8, 8, 1, 1)), None)
    if case == "a computed weight":
        weight = net.op("Mul", weight, net.op("ReduceMax", "input_0", keepdims=0))
    elif case == "scales along the inputs":
        codes, scale = net.const(np.ones((8, 8, 1, 1), np.int8)), net.const(np.arange(1, 9, dtype=np.float32))
        weight = net.op("DequantizeLinear", codes, scale, axis=1)
    bias = net.op("ReduceMax", "input_0", net.const(np.int64([0, 2, 3])), keepdims=0)
    names = [] if case == "no bias" else [bias if case == "a computed bias" else net.bias(8)]
    pads = {"pads": [1] * 4} if case.startswith("pads") else {}
    groups = {"group": 2} if case == "groups" else {}
    graph = written(net, net.op("Conv", x, weight, *names, **pads, **groups))
    ops = [node.op for node in graph.nodes]
    assert ("Gemm" in ops, "Conv" in ops) == (fits, not fits)
    if fits:
        gemm = graph.nodes[ops.index("Gemm")]
        assert gemm.inputs[2:] == names
        assert gemm.attrs == {"transB": 1}
        before = graph.nodes[ops.index("Gemm") - 1]
        assert before.op == "Reshape"
        assert graph.constants[before.inputs[1]].tolist() == list(graph.values[gemm.inputs[0]].shape) == [2, 8]
        assert graph.constants[graph.nodes[-1].inputs[1]].tolist() == list(graph.values[graph.outputs[0]].shape)
