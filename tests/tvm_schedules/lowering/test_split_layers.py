"""Splits of the channels of a layer: who makes the parts, which stay as they are, and the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tvm_schedules.ir.graph import Graph
from tvm_schedules.lowering.split_layers import with_split_layers
from tvm_schedules.passes import activations
from tvm_schedules.pipeline import read_graph

SIZES = {"halves": (6, 6), "three": (3, 8, 1)}


def network(how: str = "", kind: str = "silu", sizes: str = "halves", zeros: float | None = 0.6) -> Any:
    """A block of YOLO's: what a layer made is split, parts go through a layer, and all that was made is joined."""
    net = Net((1, 6, 7, 9), seed=3)
    x = net.quantize("input_0", 0.03, 110)
    groups = 2 if how == "groups" else 1
    y = net.op("Conv", x, net.weight((12, 6 // groups, 3, 3), zeros), net.bias(12), pads=[1] * 4, group=groups)
    y = net.op("Add", y, net.op("Conv", x, net.weight((12, 6, 1, 1), 0.5))) if how == "a residual" else y
    if kind == "silu":
        y = net.op("Mul", y, net.op("Sigmoid", y))
    elif kind:
        y = net.op(kind, y)
    axis = 2 if how == "rows" else 1
    count = len(SIZES[sizes])
    first = net.op("Split", y, net.const(np.array(SIZES[sizes] if axis == 1 else (3, 4))), axis=axis, outputs=count)
    grids = [net.quantize(f"{first}_{i}", 0.05 + 0.01 * i, 30) for i in range(1, count)]
    joined = net.op("Concat", first, *grids, axis=axis)
    z = net.quantize(joined, 0.061, 31)
    last = net.op("Conv", z, net.weight((5, 12, 1, 1), 0.5), net.bias(5))
    more = {"two readers": [net.op("Exp", y)], "an output": [y]}.get(how, [])
    return net.model(net.quantize(last, 0.093, 128), *more)


def split_of(graph: Graph) -> list[Any]:
    return [node for node in graph.nodes if node.op == "Split"]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", ["silu", "Relu", ""])
def test_every_part_is_a_layer(kind: str, sizes: str) -> None:
    graph = read_graph(network(kind=kind, sizes=sizes))
    before = [(node.op, node.name, list(node.inputs), list(node.outputs)) for node in graph.nodes]
    (layer,) = (node for node in graph.nodes if node.outputs == split_of(graph)[0].inputs[:1])
    made = with_split_layers(graph)
    assert split_of(made) == []
    parts = [node for node in made.nodes if node.name.rpartition("/")[0] == layer.name]
    assert [node.weight.shape[0] for node in parts] == list(SIZES[sizes])
    assert [made.values[node.outputs[0]].dtype for node in parts] == ["float32"] + ["uint8"] * (len(parts) - 1)
    for plain in (made, activations.split(made, lambda node: False)):
        known = {*made.inputs, *made.constants, *made.weights, ""}
        for node in plain.nodes:
            assert {*node.inputs} <= known, node
            assert {*node.outputs} <= {*made.values}
            known |= {*node.outputs}
        assert {*made.outputs} <= known
    assert [(node.op, node.name, list(node.inputs), list(node.outputs)) for node in graph.nodes] == before


@pytest.mark.parametrize("how", ["two readers", "an output", "rows", "groups", "a residual"])
def test_other_splits_stay(how: str) -> None:
    graph = read_graph(network(how, kind=""))
    assert with_split_layers(graph) is graph
    assert len(split_of(graph)) == 1


@pytest.mark.parametrize(
    ("kind", "sizes", "zeros"),
    [("silu", "halves", 0.6), ("silu", "three", 0.9), ("Relu", "three", None), ("", "halves", 0.6)],
)
def test_results_agree_with_onnxruntime(kind: str, sizes: str, zeros: float | None) -> None:
    model = network(kind=kind, sizes=sizes, zeros=zeros)
    runner = Runner(model)
    assert not any("Split" in step.info["op"] for step in runner.plan.steps)
    floats = [step.name for step in runner.plan.steps if "to float32" in step.info["reason"]]
    assert len(floats) == 1, "the network's output alone: parts that are read twice go from bytes to bytes"
    data = np.random.default_rng(2).normal(size=(1, 6, 7, 9)).astype(np.float32)
    (have,), (want,) = runner(data), run_onnx(model, data)
    steps = np.abs(have - want) / 0.093
    assert steps.max() < 1.01
    assert (steps > 0.5).mean() < 0.01
