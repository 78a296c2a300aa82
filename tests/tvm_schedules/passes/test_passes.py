"""What is fused into a layer, and what may not be: fused graphs computed by numpy, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tvm_schedules.nets import Net, run_onnx
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.ir.graph import DenseWeight, Fused, Graph, Linear, Pool, Windowed
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.passes import prepare


def dense(weight: Any) -> np.ndarray:
    assert isinstance(weight, DenseWeight | TernaryTensor)
    return weight.dequantize().astype(np.float64)


def windows(node: Windowed | Pool, x: np.ndarray, fill: float) -> np.ndarray:
    """``[N, C, taps, D, H, W]``: what every tap of the window sees."""
    window = node.window
    extra = 5 - x.ndim
    x = x.reshape(*x.shape[:2], *(1,) * extra, *x.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), *window.pads), constant_values=fill)
    sizes = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(padded.shape[2:], window.kernel, window.strides, window.dilations, strict=True)
    ]
    taps = []
    for tap in np.ndindex(*window.kernel):
        places = [
            slice(t * d, t * d + s * (n - 1) + 1, s)
            for t, d, s, n in zip(tap, window.dilations, window.strides, sizes, strict=True)
        ]
        taps.append(padded[:, :, places[0], places[1], places[2]])
    return np.stack(taps, 2)


def accumulated(node: Fused, x: np.ndarray) -> np.ndarray:
    if isinstance(node, Linear):
        return x @ dense(node.weight).T
    if isinstance(node, Pool):
        taps = windows(node, x, -np.inf if node.kind == "max" else 0.0)
        if node.kind == "max":
            return taps.max(2)
        count = np.ones_like(taps) if node.include_pad else windows(node, np.ones_like(x), 0.0)
        return taps.sum(2) / count.sum(2)
    assert isinstance(node, Windowed)
    weight, groups = dense(node.weight), node.window.groups
    taps = windows(node, x, 0.0)
    rows, fan = weight.shape[0] // groups, weight.shape[1]
    weight = weight.reshape(groups, rows, fan, -1)
    taps = taps.reshape(x.shape[0], groups, fan, *taps.shape[2:])
    return np.einsum("gofk,ngfkdhw->ngodhw", weight, taps).reshape(x.shape[0], groups * rows, *taps.shape[-3:])


def computed(graph: Graph, *inputs: np.ndarray) -> list[np.ndarray]:
    """The graph's outputs, by the definition of its fused nodes."""
    values = dict(zip(graph.inputs, (x.astype(np.float64) for x in inputs), strict=True))
    for node in graph.nodes:
        if not isinstance(node, Fused):
            assert node.op in ("Add", "Mul"), node.op  # what was not fused
            a, b = (values.get(name, graph.constants.get(name)) for name in node.inputs)
            assert a is not None
            assert b is not None
            values[node.outputs[0]] = a + b if node.op == "Add" else a * b
            continue
        shape = graph.values[node.outputs[0]].shape
        total = accumulated(node, values[node.inputs[0]])
        along = (-1,) if isinstance(node, Linear) else (1, -1, *(1,) * (total.ndim - 2))
        total = total * node.scale.reshape(along).astype(np.float64) + node.bias.reshape(along)
        total = total.reshape(shape)
        if node.residual:
            total = total + values[node.residual]
        values[node.outputs[0]] = np.clip(total, node.clip.low, node.clip.high)
    return [values[name] for name in graph.outputs]


def check(net: Net, *outputs: str, fused: int | None = None) -> Graph:
    """Compares with onnxruntime; ``fused`` is how many nodes are left."""
    model = net.model(*outputs)
    graph = prepare(read(model))
    rng = np.random.default_rng(3)
    inputs = [rng.normal(size=graph.values[name].shape).astype(np.float32) for name in graph.inputs]
    for have, want in zip(computed(graph, *inputs), run_onnx(model, *inputs), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4)
    if fused is not None:
        assert len(graph.nodes) == fused, [node.op for node in graph.nodes]
    return graph


def values(*shape: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Shapes of a constant behind a linear layer [rows, channels], and whether it is one number a channel.
OF_ROWS: list[tuple[tuple[int, int], tuple[int, ...], bool]] = [
    ((3, 5), (5,), True), ((3, 5), (1, 5), True), ((3, 5), (1,), True), ((3, 5), (), True), ((3, 5), (1, 1), True),
    ((3, 5), (3, 1), False), ((3, 5), (3, 5), False), ((5, 5), (5, 1), False), ((5, 5), (5,), True),
    ((2, 2), (2, 1), False), ((2, 2), (2,), True), ((1, 2), (2,), True), ((1, 2), (1, 2), True),
    ((3, 1), (3, 1), False),
]  # fmt: skip


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize(("size", "shape", "fits"), OF_ROWS)
def test_constants_behind_a_linear_layer(op: str, size: tuple[int, int], shape: tuple[int, ...], fits: bool) -> None:
    for first in (False, True):
        net = Net((size[0], 6))
        y = net.op("Gemm", "input_0", net.weight((size[1], 6), None), net.bias(size[1]), transB=1)
        c = net.const(values(*shape))
        check(net, net.op(op, *((c, y) if first else (y, c))), fused=1 if fits else 2)


# The same behind a convolution [1, channels, height, width].
OF_IMAGES: list[tuple[tuple[int, int, int], tuple[int, ...], bool]] = [
    ((4, 6, 5), (1, 4, 1, 1), True), ((4, 6, 5), (4, 1, 1), True), ((4, 6, 5), (1,), True), ((4, 6, 5), (), True),
    ((4, 6, 5), (5,), False), ((4, 6, 5), (6, 1), False), ((5, 5, 5), (5,), False), ((5, 5, 5), (5, 1), False),
    ((5, 5, 5), (5, 1, 1), True), ((2, 2, 2), (2,), False), ((2, 2, 2), (2, 1, 1), True),
    ((2, 2, 2), (1, 2, 1, 1), True),
]  # fmt: skip


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize(("size", "shape", "fits"), OF_IMAGES)
def test_constants_behind_a_convolution(
    op: str, size: tuple[int, int, int], shape: tuple[int, ...], fits: bool
) -> None:
    net = Net((1, 3, *size[1:]))
    y = net.op("Conv", "input_0", net.weight((size[0], 3, 3, 3), None), net.bias(size[0]), pads=[1] * 4)
    check(net, net.op(op, y, net.const(values(*shape))), fused=1 if fits else 2)


@pytest.mark.parametrize("shape", [(4, 1, 1), (1,)])
@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_constants_behind_an_activation(op: str, shape: tuple[int, ...]) -> None:
    """Clipping commutes with the addition of one number, and with nothing else."""
    net = Net((1, 3, 6, 5))
    y = net.op("Conv", "input_0", net.weight((4, 3, 3, 3), None), net.bias(4))
    y = net.op("Clip", y, net.const(np.float32(-0.3)), net.const(np.float32(0.4)))
    check(net, net.op(op, y, net.const(values(*shape))), fused=1 if op == "Add" and shape == (1,) else 2)


@pytest.mark.parametrize("before", [False, True])
def test_normalization_and_activation(before: bool) -> None:
    net = Net((1, 3, 6, 5))
    y = net.op(
        "Conv", "input_0", net.weight((4, 3, 3, 3), 0.5, terms=2), net.bias(4), pads=[1, 0, 0, 1], strides=[2, 1]
    )
    y = net.op("Relu", y) if before else y
    parts = [net.const(part) for part in (values(4), values(4, seed=8), values(4, seed=9), np.abs(values(4)) + 0.5)]
    y = net.op("BatchNormalization", y, *parts, epsilon=0.1)
    if before:  # which changes signs: the activation stays before it
        graph = prepare(read(net.model(y)))
        assert not any(
            "batchnormalization" in name for node in graph.nodes if isinstance(node, Fused) for name in node.fused[1:]
        )
        return
    check(net, net.op("Clip", net.op("Relu", y), "", net.const(np.float32(0.7))), fused=1)


def test_epsilon_that_is_not_given() -> None:
    net = Net((1, 3, 6, 5))
    y = net.op("Conv", "input_0", net.weight((4, 3, 3, 3), None))
    small = net.const(np.full(4, 1e-6, np.float32))  # so that the standard's 1e-5 is most of the root
    check(net, net.op("BatchNormalization", y, *(net.const(values(4, seed=i)) for i in range(3)), small), fused=1)


def test_residual_then_activation() -> None:
    net = Net((1, 4, 6, 5))
    y = net.op("Conv", "input_0", net.weight((4, 4, 3, 3), 0.5), net.bias(4), pads=[1] * 4)
    graph = check(net, net.op("Relu", net.op("Add", "input_0", y)), fused=1)
    (node,) = graph.nodes
    assert isinstance(node, Windowed)
    assert node.residual == "input_0"
    assert (node.clip.low, node.clip.high) == (0.0, np.inf)


def test_activation_then_residual_stay_two() -> None:
    net = Net((1, 4, 6, 5))
    y = net.op("Relu", net.op("Conv", "input_0", net.weight((4, 4, 3, 3), 0.5), net.bias(4), pads=[1] * 4))
    check(net, net.op("Add", "input_0", y), fused=2)


def test_a_sum_with_itself_is_no_residual() -> None:
    net = Net((2, 6))
    y = net.op("Gemm", "input_0", net.weight((5, 6), None), transB=1)
    check(net, net.op("Add", y, y), fused=2)


def test_what_an_output_needs_is_not_absorbed() -> None:
    net = Net((2, 6))
    y = net.op("Gemm", "input_0", net.weight((5, 6), None), transB=1)
    check(net, y, net.op("Add", y, net.const(values(5))), fused=2)


@pytest.mark.parametrize(
    "window",
    [
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 1]},
        {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"kernel_shape": [2, 4], "auto_pad": "SAME_LOWER", "strides": [1, 3]},
        {"kernel_shape": [1, 2], "auto_pad": "SAME_UPPER", "strides": [1, 2]},
        {"kernel_shape": [2, 3], "auto_pad": "VALID", "strides": [2, 1]},
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    ],
)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "Conv"])
def test_windows(op: str, window: dict[str, Any]) -> None:
    net = Net((1, 3, 7, 8))
    if op == "Conv":
        kept = {k: v for k, v in window.items() if k not in ("kernel_shape", "ceil_mode")}
        weight = net.weight((4, 3, *window["kernel_shape"]), None)
        check(net, net.op("Conv", "input_0", weight, dilations=[1, 2] if "auto_pad" not in window else [1, 1], **kept))
    else:
        check(net, net.op(op, "input_0", **window), fused=1)


@pytest.mark.parametrize("attributes", [{"transA": 1}, {"alpha": 0.5}, {"beta": 2.0}])
def test_products_that_are_no_linear_layer(attributes: dict[str, Any]) -> None:
    net = Net((5, 5))
    y = net.op("Gemm", "input_0", net.weight((5, 5), None), net.bias(5), transB=1, **attributes)
    (node,) = prepare(read(net.model(y))).nodes
    assert not isinstance(node, Fused)


@pytest.mark.parametrize("zeros", [0.4, None])
@pytest.mark.parametrize(("op", "transposed"), [("Gemm", True), ("Gemm", False), ("MatMul", False)])
def test_weights_of_either_orientation(op: str, transposed: bool, zeros: float | None) -> None:
    """Levels go along the output channels, wherever these are."""
    net = Net((3, 12))
    codes = net.codes((4, 12), zeros).astype(np.float32) if zeros else values(4, 12)
    weight = codes * (np.abs(values(4)) + 0.1)[:, None]
    name = net.const(weight if transposed else np.ascontiguousarray(weight.T))
    graph = check(net, net.op(op, "input_0", name, **({"transB": 1} if transposed else {})), fused=1)
    (node,) = graph.nodes
    assert isinstance(node, Linear)
    assert isinstance(node.weight, TernaryTensor if zeros else DenseWeight)


@pytest.mark.parametrize(
    ("axis", "equal", "ternary", "fits"),
    [
        (1, False, False, True), (1, True, False, True), (0, False, False, False), (0, True, False, True),
        (1, False, True, True), (0, False, True, False),
    ],
)  # fmt: skip
def test_scales_along_the_inputs(axis: int, equal: bool, ternary: bool, fits: bool) -> None:
    """One scale for each input is no linear layer's; equal ones are one scale of the layer, in whatever order."""
    net = Net((3, 6))
    rng = np.random.default_rng(5)
    codes = rng.integers(-1, 2, (6, 4)).astype(np.int8) if ternary else rng.integers(-99, 99, (6, 4)).astype(np.int8)
    count = codes.shape[axis]
    scale = np.full(count, 0.5, np.float32) if equal else np.linspace(0.5, 2, count).astype(np.float32)
    name = net.op("DequantizeLinear", net.const(codes), net.const(scale), axis=axis)
    model = net.model(net.op("MatMul", "input_0", name))
    (node,) = prepare(read(model)).nodes
    assert isinstance(node, Linear) == fits
    if fits:
        check(net, node.outputs[0], fused=1)
