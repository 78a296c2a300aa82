"""Networks that go on from their last call: a state that changes places, and one that stays where it lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.tvm_schedules.nets import run_onnx
from tests.tvm_schedules.recurrent_nets import Case, recurrent
from tvm_schedules.backends.cpu.runtime import CpuModel
from tvm_schedules.errors import ArtifactError, InputError
from tvm_schedules.pipeline import read_graph, run_in_memory
from tvm_schedules.runtime.model import Model
from tvm_schedules.runtime.stateful import Stateful
from tvm_schedules.targets.registry import resolve

STATE = {"last_h": "h", "last_c": "c"}


@pytest.fixture(scope="module")
def lstm() -> Model:
    return run_in_memory(read_graph(recurrent(Case("LSTM", 1, 1, 5, 9, states=True))), resolve("host"))


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(count, 1, 1, 5)).astype(np.float32)


@pytest.mark.parametrize("kind", ["library", "copies"])
def test_frames_of_a_sequence(lstm: Model, kind: str) -> None:
    step = lstm.stateful(STATE) if kind == "library" else Stateful(lstm, STATE)
    assert [entry["name"] for entry in step.inputs] == ["x"]
    assert [entry["name"] for entry in step.outputs] == ["y"]
    sequence, zero = frames(5), np.zeros((1, 1, 9), np.float32)
    whole = recurrent(Case("LSTM", 5, 1, 5, 9, states=True))
    wanted, h, c = run_onnx(whole, sequence[:, 0], zero, zero)
    for _ in range(2):
        got = np.concatenate([step(frame) for frame in sequence])
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        np.testing.assert_allclose(step.state["h"], h, atol=1e-5)
        np.testing.assert_allclose(step.state["c"], c, atol=1e-5)
        step.reset()
        assert not any(array.any() for array in step.state.values())


def test_two_sequences_and_a_state_of_the_callers(lstm: Model) -> None:
    first, second = lstm.stateful(STATE), lstm.stateful({"last_h": "h"})
    frame, zero = frames(1)[0], np.zeros((1, 1, 9), np.float32)
    first(frame)
    y, c = second(frame, zero)  # its cell state is the caller's
    np.testing.assert_array_equal(y, first.state["h"][None])
    np.testing.assert_array_equal(c, first.state["c"])
    first.state["h"][...], first.state["c"][...] = 0.5, -0.25
    wanted = lstm(frame, np.full_like(zero, 0.5), np.full_like(zero, -0.25))[0]
    np.testing.assert_array_equal(first(frame), wanted)
    lstm(frame, zero, zero)  # the model has memory of its own
    assert lstm.stateful({"last_h": "h"}).state["h"].sum() == 0


def caches() -> Model:
    """Two caches, of which a step writes a row each, and their sums."""

    def info(name: str, shape: list[int], kind: int = TensorProto.FLOAT) -> object:
        return helper.make_tensor_value_info(name, kind, shape)

    nodes = [helper.make_node("ScatterND", [name, "at", "row"], [f"{name}_next"]) for name in ("a", "b")]
    nodes += [helper.make_node("ReduceSum", [f"{name}_next"], [f"{name}_sum"], keepdims=0) for name in ("a", "b")]
    graph = helper.make_graph(
        nodes,
        "caches",
        [info("a", [6, 3]), info("b", [6, 3]), info("at", [1, 1], TensorProto.INT64), info("row", [1, 3])],
        [info("a_sum", []), info("a_next", [6, 3]), info("b_next", [6, 3]), info("b_sum", [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return run_in_memory(read_graph(model), resolve("host"))


def test_a_cache_stays_where_it_is() -> None:
    model = caches()
    both, one = model.stateful({"a_next": "a", "b_next": "b"}), model.stateful({"b_next": "b"})
    crossed = model.stateful({"a_next": "b", "b_next": "a"})
    assert (both.in_place, one.in_place, crossed.in_place) == (("a", "b"), ("b",), ())
    where = both.state["a"].ctypes.data
    given, wanted = np.ones((6, 3), np.float32), np.zeros((6, 3), np.float32)
    for place in (0, 3, 5, 3):
        row = np.float32([[place, 1, 2]])
        wanted[place], given[place] = row, row
        sums = both(np.int64([[place]]), row)
        np.testing.assert_array_equal(sums, [wanted.sum()] * 2)
        np.testing.assert_array_equal(both.state["b"], wanted)
        a_sum, a_next, b_sum = one(given, np.int64([[place]]), row)
        np.testing.assert_array_equal(a_next, given)
        np.testing.assert_array_equal([a_sum, b_sum], [given.sum(), wanted.sum()])
    assert both.state["a"].ctypes.data == where
    crossed(np.int64([[1]]), np.float32([[1, 2, 3]]))
    crossed(np.int64([[2]]), np.float32([[1, 2, 3]]))
    assert crossed.state["a"].sum() == crossed.state["b"].sum() == 12


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({}, "at least one output"),
        ({"last": "h"}, "no output 'last'; the network's outputs are y, last_h, last_c"),
        ({"last_h": "q"}, "no input 'q'; the network's inputs are x, h, c"),
        ({"last_h": "x"}, r"output 'last_h' is float32\[1, 1, 9\], which cannot be input 'x', float32\[1, 1, 5\]"),
        ({"last_h": "h", "last_c": "h"}, "input 'h' comes from two outputs"),
    ],
)
def test_states_that_are_none(lstm: Model, state: dict[str, str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        lstm.stateful(state)


def test_calls_take_what_is_no_state(lstm: Model) -> None:
    step = lstm.stateful(STATE)
    with pytest.raises(InputError, match="no input 'h'"):
        step(frames(1)[0], h=np.zeros((1, 1, 9), np.float32))
    with pytest.raises(InputError, match="must have shape"):
        step(frames(2)[:, 0])


def test_a_plan_cannot_give_an_output_other_memory() -> None:
    model = caches()
    assert isinstance(model, CpuModel)
    for name in ("row", "nothing"):
        outputs = (replace(model.plan.outputs[0], in_place=name), *model.plan.outputs[1:])
        with pytest.raises(ArtifactError, match=f"output 'a_sum' cannot have the memory of input '{name}'"):
            CpuModel(replace(model.plan, outputs=outputs), model._library, model._constants)
