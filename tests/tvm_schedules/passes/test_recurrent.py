"""Recurrent operators split into a layer over the inputs and their steps: computed by numpy, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tests.tvm_schedules.nets import Net, run_onnx
from tests.tvm_schedules.recurrent_nets import Case, recurrent
from tvm_schedules.errors import UnsupportedOperatorError
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.ir.graph import DenseWeight, Graph, Linear, Node, Recurrent, Value
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.passes import prepare
from tvm_schedules.passes import recurrent as pass_

OPS = ["LSTM", "GRU", "RNN"]
DIRECTIONS = ["forward", "reverse", "bidirectional"]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def stepped(
    node: Recurrent, gates: np.ndarray, weight: np.ndarray, late: np.ndarray, h: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The states behind a step, by ONNX' definition; ``gates`` ``[B, gates * H]`` is made of the inputs."""
    parts = np.split(gates, node.gates, 1)
    own = np.split(weight, node.gates, 0)
    if node.op == "RNN":
        total = parts[0] + h @ own[0].T
        return (np.maximum(total, 0) if node.relu else np.tanh(total)), c
    if node.op == "LSTM":
        i, o, f, g = (part + h @ w.T for part, w in zip(parts, own, strict=True))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    z, r = (sigmoid(part + h @ w.T) for part, w in zip(parts[:2], own, strict=False))
    hidden = r * (h @ own[2].T + late) if node.late_reset else (r * h) @ own[2].T + late
    return (1 - z) * np.tanh(parts[2] + hidden) + z * h, c


def computed(graph: Graph, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The graph's outputs, by the definition of its nodes."""
    values = dict(zip(graph.inputs, (x.astype(np.float64) for x in inputs), strict=True))
    *layers, node = graph.nodes
    for layer in layers:
        assert isinstance(layer, Linear)
        assert isinstance(layer.weight, DenseWeight | TernaryTensor)
        made = values[layer.inputs[0]] @ layer.weight.dequantize().astype(np.float64).T * layer.scale + layer.bias
        assert made.shape == graph.values[layer.outputs[0]].shape
        values[layer.outputs[0]] = made
    assert isinstance(node, Recurrent)
    count, (steps, batch, _) = len(node.reverse), values[node.inputs[0]].shape
    hidden = node.weights[0].dequantize().shape[1]
    zeros = np.zeros((count, batch, hidden))
    first, cells = (values.get(name, zeros) for name in node.inputs[count:])
    every, last, last_cells = np.zeros((steps, count, batch, hidden)), zeros.copy(), zeros.copy()
    for d in range(count):
        h, c, weight = first[d], cells[d], node.weights[d].dequantize().astype(np.float64)
        for t in range(steps)[:: -1 if node.reverse[d] else 1]:
            h, c = stepped(node, values[node.inputs[d]][t], weight, node.hidden_bias[d], h, c)
            every[t, d] = h
        last[d], last_cells[d] = h, c
    found = dict(zip(node.outputs, (every, last, last_cells), strict=True))
    return [found[name] for name in graph.outputs]


@examples(40)
@given(
    st.sampled_from(OPS), st.sampled_from(DIRECTIONS), st.sampled_from(["ternary", "levels", "float"]), st.booleans(),
    st.sampled_from([3, 7, 8, 9]), st.sampled_from([1, 5, 8]), st.sampled_from([1, 4]), st.integers(0, 1),
    st.sampled_from([(True, True, True), (True, False, False), (False, True, False)]),
)  # fmt: skip
def test_results_are_those_of_onnxruntime(
    op: str, direction: str, kind: str, states: bool, inputs: int, hidden: int, steps: int, option: int,
    results: tuple[bool, bool, bool],
) -> None:  # fmt: skip
    attrs: dict[str, Any] = {}
    if op == "GRU":
        attrs["linear_before_reset"] = option
    elif op == "RNN" and option:
        attrs["activations"] = ["Relu"] * (2 if direction == "bidirectional" else 1)
    case = Case(op, steps, 2, inputs, hidden, direction, kind, states, results, attrs)
    model = recurrent(case)
    graph = prepare(read(model))
    rng = np.random.default_rng(1)
    given_ = [rng.normal(size=graph.values[name].shape).astype(np.float32) for name in graph.inputs]
    for have, want in zip(computed(graph, given_), run_onnx(model, *given_), strict=True):
        np.testing.assert_allclose(have, want, atol=1e-5)
    *layers, node = graph.nodes
    assert isinstance(node, Recurrent)
    assert len(layers) == len(node.weights) == case.directions
    assert [bool(name) for name in node.outputs] == [*results[: 3 if op == "LSTM" else 2], False][:3]
    for weight, size in [(layer.weight, inputs) for layer in layers if isinstance(layer, Linear)] + [
        (weight, hidden) for weight in node.weights
    ]:
        # Of fewer values a row, codes and levels are no less than the values.
        assert isinstance(weight, TernaryTensor) == (kind != "float" and size >= 8)
        assert weight is not None
        assert weight.channel_axis == 0


def graph_of(node: Node, **constants: np.ndarray) -> Graph:
    values = {"x": Value("x", (3, 2, 4), "float32"), "y": Value("y", (3, 1, 2, 5), "float32")}
    return Graph("net", [node], values, dict(constants), ["x"], ["y"])


def test_weights_of_codes_keep_them() -> None:
    """Rows of gates along the second axis, behind that of directions."""
    rng = np.random.default_rng(0)
    codes, numbers = rng.integers(-1, 2, (1, 1, 15, 4)).astype(np.int8), rng.integers(-99, 99, (1, 15, 5))
    levels, scale = rng.uniform(1, 2, (1, 15)).astype(np.float32), rng.uniform(1, 2, 15).astype(np.float32)
    graph = graph_of(Node("layer", "GRU", ["x", "w", "r"], ["y"]))
    graph.weights = {
        "w": TernaryTensor(codes, levels, 2 * levels, 1),
        "r": DenseWeight(numbers.astype(np.int8), scale, 1),
    }
    pass_.run(graph)
    layer, steps = graph.nodes
    assert isinstance(layer, Linear)
    assert isinstance(layer.weight, TernaryTensor)
    assert layer.weight.codes.tolist() == codes[:, 0].tolist()
    assert (layer.weight.positive.tolist(), layer.weight.negative.tolist()) == (levels.tolist(), (2 * levels).tolist())
    assert isinstance(steps, Recurrent)
    (weight,) = steps.weights
    assert isinstance(weight, DenseWeight)
    assert weight.values.dtype == np.int8
    assert weight.values.tolist() == numbers[0].tolist()
    assert (weight.scale.tolist(), weight.channel_axis) == (scale.tolist(), 0)
    assert (layer.scale.tolist(), layer.bias.tolist()) == ([1] * 15, [0] * 15)
    assert not steps.late_reset  # ONNX' default, which PyTorch's is not
    assert (steps.name, steps.inputs, steps.outputs) == ("layer", ["layer.gates", "", ""], ["y", "", ""])


def test_weights_of_codes_along_another_axis_are_read_as_values() -> None:
    codes = np.random.default_rng(0).integers(-1, 2, (1, 1, 15, 8)).astype(np.int8)
    level = np.float32([[0.5]])
    graph = graph_of(Node("layer", "GRU", ["x", "w", "r"], ["y"]), r=np.ones((1, 15, 5), np.float32))
    graph.weights = {"w": TernaryTensor(codes, level, level, 0)}
    pass_.run(graph)
    layer = graph.nodes[0]
    assert isinstance(layer, Linear)
    assert layer.weight is not None
    assert layer.weight.channel_axis == 0
    np.testing.assert_array_equal(layer.weight.dequantize(), codes[0, 0] * 0.5)


def test_the_sequence_may_have_8_bits() -> None:
    net = Net((3, 2, 8))
    x = net.quantize("input_0", 0.1, 100)
    w, r = net.const(np.ones((1, 5, 8), np.float32)), net.const(np.eye(5, dtype=np.float32)[None])
    graph = prepare(read(net.model(net.op("RNN", x, w, r, hidden_size=5))))
    (layer,) = (node for node in graph.nodes if isinstance(node, Linear))
    assert graph.values[layer.inputs[0]].quant is not None


def test_names_that_a_file_has_already() -> None:
    graph = prepare(read(recurrent(Case("LSTM", direction="bidirectional"))))
    taken = graph_of(Node("layer", "RNN", ["x", "w", "r"], ["y"]), w=np.ones((1, 5, 4)), r=np.ones((1, 5, 5)))
    taken.values["layer.gates"] = taken.values["x"]
    taken.constants["layer.gates'"] = np.zeros(1)
    pass_.run(taken)
    assert [node.outputs[0] for node in taken.nodes] == ["layer.gates''", "y"]
    assert taken.nodes[1].inputs[0] == "layer.gates''"
    assert [node.name for node in taken.nodes] == ["layer/input", "layer"]
    assert [node.name for node in graph.nodes] == ["layer/input0", "layer/input1", "layer"]
    assert [node.outputs[0] for node in graph.nodes[:2]] == ["layer.gates0", "layer.gates1"]


WEIGHTS = {"w": np.ones((1, 5, 4), np.float32), "r": np.ones((1, 5, 5), np.float32)}


@pytest.mark.parametrize(
    ("inputs", "attrs", "why"),
    [
        (3, {"direction": "sideways"}, "direction is 'sideways'"),
        (3, {"layout": 1}, "layout=1"),
        (3, {"clip": 3.0}, "clip is not supported"),
        (3, {"input_forget": 1}, "input_forget is not supported"),
        (3, {"activations": ["Sigmoid"]}, r"activations are \['Sigmoid'\], which must be \['Tanh'\]"),
        (3, {"activations": [b"Relu", b"Tanh"], "direction": "bidirectional"}, r"\['Relu', 'Tanh'\], which must be"),
        (5, {}, "sequence lengths are not supported"),
        (8, {}, "peepholes are not supported"),
    ],
)
def test_what_no_kernel_knows_is_refused(inputs: int, attrs: dict[str, Any], why: str) -> None:
    names = ["x", "w", "r", *[""] * 5][:inputs]
    names[-1] = names[-1] or "lengths"
    node = Node("layer", "RNN", names, ["y"], attrs)
    with pytest.raises(UnsupportedOperatorError, match=f"node 'layer': RNN cannot be compiled: .*{why}"):
        pass_.run(graph_of(node, **WEIGHTS))


@pytest.mark.parametrize("given_", [["Tanh"], [b"Tanh"], ["Relu"], []])
def test_usual_activations_may_be_named(given_: list[Any]) -> None:
    graph = graph_of(Node("layer", "RNN", ["x", "w", "r"], ["y"], {"activations": given_}), **WEIGHTS)
    pass_.run(graph)
    steps = graph.nodes[1]
    assert isinstance(steps, Recurrent)
    assert steps.relu == (given_ == ["Relu"])


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_only_an_rnn_may_have_another_activation(op: str) -> None:
    node = Node("layer", op, ["x", "w", "r"], ["y"], {"activations": ["Relu"]})
    with pytest.raises(UnsupportedOperatorError, match="activations are"):
        pass_.run(graph_of(node, **WEIGHTS))


@pytest.mark.parametrize("computed_", ["w", "r", "b"])
def test_weights_are_constants(computed_: str) -> None:
    graph = graph_of(Node("layer", "RNN", ["x", "w", "r", "b"], ["y"]), **WEIGHTS, b=np.zeros((1, 10), np.float32))
    del graph.constants[computed_]
    with pytest.raises(UnsupportedOperatorError, match=f"its weight '{computed_}' is computed from an input"):
        pass_.run(graph)


def test_a_constant_sequence_is_refused() -> None:
    graph = graph_of(Node("layer", "RNN", ["x", "w", "r"], ["y"]), **WEIGHTS, x=np.ones((3, 2, 4), np.float32))
    del graph.values["x"]
    with pytest.raises(UnsupportedOperatorError, match="its sequence is a constant"):
        pass_.run(graph)
