"""Convolutions of one pixel are linear layers, with the same results; others stay convolutions."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tvm_schedules.ir.graph import Linear, Windowed
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
