"""Enlargements before a rounding: which are moved behind it, who rounds, and the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tvm_schedules.lowering.early_rounding import with_early_rounding
from tvm_schedules.pipeline import read_graph

SHAPE = (1, 8, 6, 7)


def enlarged(net: Net, y: str, op: str) -> tuple[str, int]:
    """What an operator makes of a tensor of :data:`SHAPE`, and the channels that it has then."""
    if op.startswith("Resize"):
        mode, scales = {
            "Resize": ("nearest", (1, 1, 2, 3)),
            "Resize linear": ("linear", (1, 1, 2, 3)),
            "Resize smaller": ("nearest", (1, 1, 0.5, 0.5)),
        }[op]
        size = net.const(np.array(scales, np.float32))
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if mode == "nearest" else {}
        return net.op("Resize", y, "", size, mode=mode, **how), 8
    if op == "Tile":
        return net.op(op, y, net.const(np.array([1, 2, 1, 1]))), 16
    pooled = net.op("ReduceMax", y, net.const(np.array([2, 3])), keepdims=1)
    return net.op("Expand", pooled, net.const(np.array(SHAPE))), 8


def network(op: str, activation: str = "Relu", how: str = "") -> Any:
    net = Net(SHAPE, seed=3)
    x = net.quantize("input_0", 0.03, 110)
    y = net.op("Conv", x, net.weight((8, 8, 3, 3), 0.6), net.bias(8), pads=[1] * 4)
    y = net.op("Mul", y, net.op("Sigmoid", y)) if activation == "silu" else net.op(activation, y)
    large, channels = enlarged(net, y, op)
    z = net.quantize(large, 0.03, 11)
    z = net.op("Conv", z, net.weight((5, channels, 1, 1), 0.5), net.bias(5))
    more = {"two readers": [net.op("Exp", y)], "needed in floats": [net.op("Exp", large)]}.get(how, [])
    return net.model(net.quantize(z, 0.093, 128), *more)


@pytest.mark.parametrize("op", ["Resize", "Tile", "Expand"])
@pytest.mark.parametrize("how", ["", "two readers"])
@pytest.mark.parametrize("activation", ["Relu", "silu"])
def test_bytes_are_enlarged(op: str, how: str, activation: str) -> None:
    model = network(op, activation, how)
    graph = read_graph(model)
    made = with_early_rounding(graph)
    assert made is not graph
    (node,) = (node for node in made.nodes if node.op == op.partition(" ")[0])
    small = made.values[node.inputs[0]]
    assert (small.dtype, small.quant) == ("uint8", graph.values[node.outputs[0]].quant or small.quant)
    known = {*made.inputs, *made.constants, *made.weights, ""}
    for node in made.nodes:
        assert {*node.inputs} <= known
        known |= {*node.outputs}
    data = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)
    for have, want in zip(Runner(model)(data), run_onnx(model, data), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=0.094)
        assert (np.abs(have - want) > 0.04).mean() < 0.01


@pytest.mark.parametrize(("op", "how"), [("Resize linear", ""), ("Resize smaller", ""), ("Resize", "needed in floats")])
def test_others_stay(op: str, how: str) -> None:
    graph = read_graph(network(op, how=how))
    assert with_early_rounding(graph) is graph
