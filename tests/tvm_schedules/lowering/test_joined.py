"""Concatenations whose parts are rounded: who rounds them, which stay as they are, and the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tvm_schedules.ir.graph import Graph
from tvm_schedules.lowering.joined import with_rounded_parts
from tvm_schedules.pipeline import read_graph


def network(how: str = "", axis: int = 1) -> Any:
    """Two layers, of which one is read twice, and the input, joined; what reads the bytes is a layer."""
    net = Net((1, 6, 7, 9), seed=3)
    x = net.quantize("input_0", 0.03, 110)
    first = net.op("Relu", net.op("Conv", x, net.weight((6, 6, 3, 3), 0.5), net.bias(6), pads=[1] * 4))
    bytes_ = net.quantize(first, 0.05, 0)
    second = net.op("Conv", bytes_, net.weight((6, 6, 1, 1), 0.5), net.bias(6))
    second = net.op("Mul", second, net.op("Sigmoid", second))
    last = net.const(np.ones((1, 6, 7, 9), np.float32)) if how == "a constant" else "input_0"
    joined = net.op("Concat", second, bytes_, last, axis=axis)
    y = net.quantize(joined, 0.037, 90)
    weight = net.weight((5, 18 if axis == 1 else 6, 3, 3), 0.5)
    y = net.quantize(net.op("Conv", y, weight, net.bias(5), pads=[1] * 4), 0.093, 128)
    more = {"two readers": [net.op("Exp", joined)], "an output": [joined]}.get(how, [])
    return net.model(y, *more)


def concat_of(graph: Graph) -> Any:
    return next(node for node in graph.nodes if node.op == "Concat")


def test_layers_round_their_parts_and_others_are_rounded() -> None:
    graph = read_graph(network())
    before = [(node.op, list(node.inputs), list(node.outputs)) for node in graph.nodes]
    made = with_rounded_parts(graph)
    concat, producers = concat_of(made), made.producers()
    assert [producers[name].op for name in concat.inputs] == ["Conv", "QuantizeLinear", "QuantizeLinear"]
    quants = {made.values[name].quant for name in (*concat.inputs, *concat.outputs)}
    assert len(quants) == 1
    assert None not in quants
    assert {made.values[name].dtype for name in concat.inputs} == {"uint8"}
    known = {*made.inputs, *made.constants, *made.weights, ""}
    for node in made.nodes:
        assert {*node.inputs} <= known
        known |= {*node.outputs}
    assert [(node.op, list(node.inputs), list(node.outputs)) for node in graph.nodes] == before


@pytest.mark.parametrize("how", ["two readers", "an output", "a constant"])
def test_what_is_needed_in_floats_stays(how: str) -> None:
    graph = read_graph(network(how))
    assert with_rounded_parts(graph) is graph


@pytest.mark.parametrize("axis", [1, 2])
def test_results_agree_with_onnxruntime(axis: int) -> None:
    model = network(axis=axis)
    data = np.random.default_rng(2).normal(size=(1, 6, 7, 9)).astype(np.float32)
    (have,), (want,) = Runner(model)(data), run_onnx(model, data)
    steps = np.abs(have - want) / 0.093
    assert steps.max() < 1.01
    assert (steps > 0.5).mean() < 0.01


def test_layers_in_rows_with_an_activation_function_agree_with_onnxruntime() -> None:
    """Their kernels do not compute it: the nodes behind them make the part."""
    net = Net((2, 8), seed=5)
    x = net.quantize("input_0", 0.03, 110)
    parts = []
    for _ in range(2):
        y = net.op("Gemm", x, net.weight((8, 8), 0.5), net.bias(8), transB=1)
        parts.append(net.op("Mul", y, net.op("Sigmoid", y)))
    z = net.quantize(net.op("Concat", *parts, axis=1), 0.02, 20)
    model = net.model(net.op("Gemm", z, net.weight((4, 16), 0.5), net.bias(4), transB=1))
    data = np.random.default_rng(2).normal(size=(2, 8)).astype(np.float32)
    (have,), (want,) = Runner(model)(data), run_onnx(model, data)
    np.testing.assert_allclose(have, want, atol=0.03)
