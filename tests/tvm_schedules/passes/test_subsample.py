"""Shortcuts of Slice and Pad (ResNet's option A) are lowered without leaving the planes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tests.tvm_schedules.passes.test_passes import check, values
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.ir.graph import Windowed
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.passes import prepare

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
    assert not any(step.kernel == "fallback" for step in runner.plan.steps)
    assert len(runner.plan.layers) == 1, "moving data is no layer"
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


def net_of(*nodes: tuple[str, tuple[Any, ...], dict[str, Any]], shape: tuple[int, ...] = (1, 4, 6, 6)) -> Net:
    net = Net(shape)
    x = "input_0"
    for op, constants, attributes in nodes:
        x = net.op(
            op,
            x,
            *(constant if isinstance(constant, str) else net.const(constant) for constant in constants),
            **attributes,
        )
    return net


def strided(starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> tuple[Any, ...]:
    return "Slice", tuple(np.int64(numbers) for numbers in (starts, ends, axes, steps)), {}


def padded(*pads: int, value: Any = None, **attributes: Any) -> tuple[Any, ...]:
    return "Pad", (np.int64(pads), *(() if value is None else (value,))), attributes


FAR = 2**31
TAKEN = {
    "both axes at once": ([strided([0, 0], [FAR, FAR], [2, 3], [3, 2])], (3, 2), (0, 0)),
    "axes counted from behind": ([strided([0, 0], [FAR, FAR], [-1, -2], [3, 2])], (2, 3), (0, 0)),
    "an end that is the size": ([strided([0], [6], [3], [2])], (1, 2), (0, 0)),
    "an end behind the size": ([strided([0], [7], [3], [2])], (1, 2), (0, 0)),
    "a step of one": ([strided([0], [FAR], [2], [1])], (1, 1), (0, 0)),
    "steps that multiply": ([strided([0], [FAR], [2], [2]), strided([0], [FAR], [2], [3])], (6, 1), (0, 0)),
    "pads that add up": ([padded(0, 1, 0, 0, 0, 2, 0, 0), padded(0, 3, 0, 0, 0, 1, 0, 0)], (1, 1), (4, 3)),
    "zeros that are said": ([padded(0, 1, 0, 0, 0, 0, 0, 0, value=np.float32(0))], (1, 1), (1, 0)),
    "pads behind": ([padded(0, 0, 0, 0, 0, 1, 0, 0, mode="constant")], (1, 1), (0, 1)),
}  # fmt: skip
LEFT = {
    "a start": strided([1], [FAR], [2], [2]),
    "a start from behind": strided([-3], [FAR], [2], [1]),
    "an end before the last pixel": strided([0], [5], [2], [1]),
    "an end from behind": strided([0], [-1], [2], [1]),
    "channels": strided([0], [FAR], [1], [2]),
    "channels counted from behind": strided([0], [FAR], [-3], [2]),
    "no step": ("Slice", (np.int64([0]), np.int64([FAR]), np.int64([2])), {}),
    "a step back": strided([5], [-9], [2], [-1]),
    "other pads": padded(0, 1, 0, 0, 0, 0, 0, 1),
    "pads of images": padded(1, 0, 0, 0, 0, 0, 0, 0),
    "another value": padded(0, 1, 0, 0, 0, 0, 0, 0, value=np.float32(0.5)),
    "another mode": padded(0, 1, 0, 0, 0, 0, 0, 0, mode="edge"),
    "fewer channels": padded(0, -1, 0, 0, 0, 0, 0, 0),
    "pads of named axes": ("Pad", (np.int64([1, 0]), "", np.int64([1])), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_a_convolution_that_selects(name: str) -> None:
    nodes, steps, (front, back) = TAKEN[name]
    net = net_of(*nodes)
    graph = check(net, net.nodes[-1].output[0], fused=1)
    (node,) = graph.nodes
    assert isinstance(node, Windowed)
    assert node.window.strides == (1, *steps)
    assert node.window.kernel == (1, 1, 1)
    assert isinstance(node.weight, TernaryTensor)
    kept = np.vstack([np.zeros((front, 4)), np.identity(4), np.zeros((back, 4))])
    np.testing.assert_array_equal(node.weight.codes.reshape(-1, 4), kept)


@pytest.mark.parametrize("name", LEFT)
def test_what_moves_more_than_every_nth_pixel_stays(name: str) -> None:
    net = net_of(LEFT[name])
    graph = prepare(read(net.model(net.nodes[-1].output[0])))
    assert [node.op for node in graph.nodes] == [LEFT[name][0]]
    assert not isinstance(graph.nodes[0], Windowed)


def test_a_chain_ends_where_somebody_else_reads() -> None:
    net = net_of(strided([0], [FAR], [2], [2]), strided([0], [FAR], [3], [2]))
    first, second = (node.output[0] for node in net.nodes)
    graph = check(net, second, net.op("Mul", first, net.const(values(6))), fused=3)
    assert [node.window.strides for node in graph.nodes if isinstance(node, Windowed)] == [(1, 2, 1), (1, 1, 2)]
    net = net_of(strided([0], [FAR], [2], [2]), strided([0], [FAR], [3], [2]))
    check(net, *(node.output[0] for node in net.nodes), fused=2)


@pytest.mark.parametrize(("shape", "taken"), [((1, 4), False), ((1, 4, 6), True), ((1, 4, 2, 2, 6), True)])
def test_ranks(shape: tuple[int, ...], taken: bool) -> None:
    net = net_of(padded(*(0, 1, *[0] * (len(shape) - 2)), *(0, 0, *[0] * (len(shape) - 2))), shape=shape)
    graph = prepare(read(net.model(net.nodes[-1].output[0])))
    assert isinstance(graph.nodes[0], Windowed) == taken


def test_a_chain_of_bytes_is_dequantized_behind() -> None:
    net = Net((1, 4, 6, 6))
    x = slice_of(net, net.quantize("input_0", 0.25, 9), 2, 2)
    graph = prepare(read(net.model(net.op("Exp", x))))
    first, chosen, behind, _ = graph.nodes
    assert [node.op for node in graph.nodes] == ["QuantizeLinear", "Slice", "DequantizeLinear", "Exp"]
    assert isinstance(chosen, Windowed)
    assert chosen.inputs == first.outputs
    assert graph.values[chosen.outputs[0]].shape == (1, 4, 3, 6)
    assert behind.inputs[0] == chosen.outputs[0]
    assert [graph.constants[name].item() for name in behind.inputs[1:]] == [0.25, 9]
    assert behind.outputs == [x]
