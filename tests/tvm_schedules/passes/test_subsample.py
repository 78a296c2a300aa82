"""Shortcuts of Slice and Pad (ResNet's option A) are lowered without leaving the planes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tvm_schedules.nets import Net, Runner, run_onnx

END = np.int64([2**63 - 1])


def slice_of(net: Net, x: str, axis: int, step: int, start: int = 0) -> str:
    numbers = [np.int64([start]), END, np.int64([axis]), np.int64([step])]
    return net.op("Slice", x, *(net.const(number) for number in numbers))


@pytest.mark.parametrize("dims", [(9, 8), (7,), (3, 5, 4)])
@pytest.mark.parametrize("zero", [None, 0, 77])
@pytest.mark.parametrize("pads", [(2, 3), (0, 4), None])
def test_shortcut_equals_onnxruntime(dims: tuple[int, ...], zero: int | None, pads: tuple[int, int] | None) -> None:
    rank, shape = len(dims), (2, 3, *dims)
    net = Net(shape)
    front, back = pads or (0, 0)
    rows = front + 3 + back
    x = "input_0" if zero is None else net.quantize("input_0", 0.05, zero)
    short = x
    for axis in range(rank):
        short = slice_of(net, short, 2 + axis, 2)
    if pads:
        numbers = [0, front, *[0] * rank, 0, back, *[0] * rank]
        short = net.op("Pad", short, net.const(np.int64(numbers)), mode="constant")
    weight = net.weight((rows, 3, *[3] * rank), 0.5)
    y = net.op("Conv", x, weight, net.bias(rows), strides=[2] * rank, pads=[1] * (2 * rank))
    model = net.model(net.op("Relu", net.op("Add", y, short)))
    data = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    runner = Runner(model)
    assert not any(step["kernel"] == "foreign" for step in runner.plan["steps"])
    assert len(runner.plan["layers"]) == 1, "moving data is no layer"
    np.testing.assert_allclose(runner(data)[0], run_onnx(model, data)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["start", "channels", "spatial pad"])
def test_other_slices_and_pads_are_left_alone(kind: str) -> None:
    net = Net((1, 4, 6, 6))
    if kind == "start":
        y = slice_of(net, "input_0", 2, 2, start=1)
    elif kind == "channels":
        y = slice_of(net, "input_0", 1, 2)
    else:
        y = net.op("Pad", "input_0", net.const(np.int64([0, 0, 1, 0, 0, 0, 0, 0])))
    model = net.model(net.op("Relu", y))
    data = np.random.default_rng(1).normal(size=(1, 4, 6, 6)).astype(np.float32)
    np.testing.assert_array_equal(Runner(model)(data)[0], run_onnx(model, data)[0])
