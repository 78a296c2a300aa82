"""Recurrent layers against onnxruntime, over sizes that fill no vector, directions, first states and all results."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import compilations
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Runner, compared
from tests.tvm_schedules.recurrent_nets import Case, recurrent
from tvm_schedules.errors import ModelError
from tvm_schedules.targets.registry import resolve

RESULTS = [(True, True, True), (True, False, False), (False, True, False), (False, False, True)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    op = draw(st.sampled_from(["LSTM", "GRU", "RNN"]))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    attrs: dict[str, object] = {}
    if op == "GRU":
        attrs["linear_before_reset"] = draw(st.integers(0, 1))
    elif op == "RNN" and draw(st.booleans()):
        attrs["activations"] = ["Relu"] * (2 if direction == "bidirectional" else 1)
    return Case(
        op,
        steps=draw(st.integers(1, 5)),
        batch=draw(st.sampled_from([1, 2, 3, 5, 8])),
        inputs=draw(st.sampled_from([3, 8, 17])),
        hidden=draw(st.sampled_from([1, 7, 16, 19, 64])),
        direction=direction,
        kind=draw(st.sampled_from(["ternary", "levels", "int8", "float"])),
        states=draw(st.booleans()),
        results=draw(st.sampled_from(RESULTS if op == "LSTM" else RESULTS[:3])),
        attrs=attrs,
    )


@compilations(20)
@given(cases())
def test_random_layers(case: Case) -> None:
    model = recurrent(case)
    rng = np.random.default_rng(1)
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input]
    inputs = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    for wanted, own in compared(model, Runner(model), inputs):
        np.testing.assert_allclose(own, wanted, rtol=1e-4, atol=3e-5)


def test_two_directions_share_a_call_and_keep_their_codes() -> None:
    plan = compile_model(recurrent(Case("LSTM", 2, 1, 24, 16, "bidirectional")), resolve("host")).plan
    assert [step.kernel for step in plan.steps].count("recurrent") == 1
    layers = {layer.name: layer for layer in plan.layers}
    assert sorted(layers) == ["layer/hidden0", "layer/hidden1", "layer/input0", "layer/input1"]
    assert all(layer.terms == 1 and 0 < layer.sparsity < 1 and layer.bits < 2.5 for layer in layers.values())
    assert layers["layer/hidden1"].shape == (64, 16)


def test_many_steps_are_no_more_code() -> None:
    short, long = (compile_model(recurrent(Case("GRU", steps)), resolve("host")).plan for steps in (2, 500))
    assert len(short.steps) <= len(long.steps) <= len(short.steps) + 2  # copies into another layout for many rows


@pytest.mark.parametrize(
    ("attrs", "why"),
    [
        ({"clip": 3.0}, "clip"),
        ({"input_forget": 1}, "input_forget"),
        ({"activations": ["Sigmoid", "Relu", "Tanh"] * 2}, "activations"),
        ({"layout": 1}, "layout=1"),
    ],
)
def test_refuses_by_name(attrs: dict[str, object], why: str) -> None:
    # Two directions of two rows: the last states have the same sizes with the batch first.
    model = recurrent(Case("LSTM", 2, 2, direction="bidirectional", results=(False, True, False), attrs=attrs))
    with pytest.raises(ModelError, match=f"node 'layer': LSTM cannot be compiled: .*{why}"):
        compile_model(model, resolve("host"))


def test_refuses_lengths_and_computed_weights() -> None:
    lengths = recurrent(Case("GRU"))
    lengths.graph.node[0].input.append("lengths")
    lengths.graph.initializer.append(onnx.numpy_helper.from_array(np.int32([3, 2]), "lengths"))
    with pytest.raises(ModelError, match="node 'layer': GRU cannot be compiled: sequence lengths"):
        compile_model(lengths, resolve("host"))
    fed = recurrent(Case("RNN"))
    array = next(tensor for tensor in fed.graph.initializer if tensor.name == "R")
    fed.graph.initializer.remove(array)
    fed.graph.input.append(onnx.helper.make_tensor_value_info("R", 1, list(array.dims)))
    with pytest.raises(ModelError, match=r"node 'layer': RNN cannot be compiled: its weight 'R' is computed"):
        compile_model(fed, resolve("host"))
