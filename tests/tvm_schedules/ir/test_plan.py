"""The plan of a network and its form in an artifact's metadata."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from tests.tvm_schedules.artifact_nets import conv_net
from tvm_schedules.backends.cpu.lower import CpuLowering
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.ir.graph import Quant
from tvm_schedules.ir.plan import Constant, Plan, Span
from tvm_schedules.lowering.memory import assign_arena, lifetimes
from tvm_schedules.lowering.plan import make_plan
from tvm_schedules.passes import prepare
from tvm_schedules.targets.registry import resolve

METADATA = Path(__file__).with_name("metadata")
"""What artifacts of earlier versions say about networks, cut to the parts of a plan."""


def in_memory_json(plan: Plan) -> dict[str, Any]:
    return json.loads(json.dumps(plan.to_json()))


@pytest.mark.parametrize("target", ["host", "opencl", "c"])
def test_metadata_of_earlier_artifacts(target: str) -> None:
    written = json.loads((METADATA / f"{target}.json").read_text())
    plan = Plan.from_json(written)
    assert in_memory_json(plan) == written
    assert plan.arena_bytes == written["memory"].get("arena_bytes")
    assert (plan.device is None) == (target != "opencl")
    if plan.device is not None:
        assert plan.device.launches[0].args[0].kind == "input"
        assert len(plan.device.launches) == len(plan.steps) == len(written["steps"])
    assert ("cortex_m7" in plan.details) == (target == "c")
    assert [layer.bits for layer in plan.layers] == [layer["bits"] for layer in written["layers"]]


def test_a_lowered_network() -> None:
    graph = prepare(read(read_model(conv_net(size=6))))
    lowering = CpuLowering(graph, resolve("host"))
    lowering.run()
    plan = make_plan(graph, lowering, assign_arena(lifetimes(lowering.steps), 0))
    assert Plan.from_json(in_memory_json(plan), plan.constants) == plan
    assert [entry.name for entry in plan.inputs] == graph.inputs
    assert plan.outputs[0].shape == graph.values[graph.outputs[0]].shape
    assert [(step.name, step.kernel) for step in plan.steps] == [(step.name, step.kernel) for step in lowering.steps]
    assert all(step.info["choice"] == dict(lowering.configs.chosen[step.name].knobs)
               for step in plan.steps if step.name in lowering.configs.chosen)  # fmt: skip
    ends = [span.offset + span.nbytes for constant in plan.constants for span in constant.outputs.values()]
    assert plan.constant_bytes == max(ends)
    with pytest.raises(FrozenInstanceError):
        plan.arena_bytes = 0  # type: ignore[misc]


def test_constants_are_stored_as_before() -> None:
    written = {
        "recipe": "mask",
        "params": {"size": [1, 2, 3], "length": 7},
        "arrays": {"scale": "conv.scale"},
        "outputs": {"mask": {"offset": 64, "nbytes": 3}},
    }
    constant = Constant.from_json(written)
    assert constant.outputs == {"mask": Span(64, 3)}
    assert json.dumps(constant.to_json()) == json.dumps(written)


def test_samples_are_counted_where_the_inputs_say_so() -> None:
    plan = Plan.from_json(json.loads((METADATA / "host.json").read_text()))
    single = replace(
        plan,
        inputs=tuple(replace(entry, batch=False) for entry in plan.inputs),
        outputs=tuple(replace(entry, batch=False, quant=Quant(0.5, 3)) for entry in plan.outputs),
    )
    assert single.counting([]) == single
    (output,) = single.counting([plan.inputs[0].name]).outputs
    assert output.to_json() == {
        "name": output.name, "shape": list(output.shape), "dtype": "float32",
        "quant": {"scale": 0.5, "zero_point": 3}, "batch": True,
    }  # fmt: skip
    assert [entry.batch for entry in single.counting([plan.inputs[0].name]).inputs] == [True]


@pytest.mark.parametrize("part", ["inputs", "steps", "layers", "memory"])
def test_what_is_no_plan(part: str) -> None:
    written = json.loads((METADATA / "host.json").read_text())
    with pytest.raises((KeyError, TypeError, AttributeError)):
        Plan.from_json({**written, part: [{"name": "x"}]})
