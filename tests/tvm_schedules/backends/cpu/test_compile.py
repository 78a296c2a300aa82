"""The compiled function: which steps a call runs, which of them threads share, and what its plan says."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tvm_schedules import compat
from tvm_schedules.backends.cpu import compile as cpu
from tvm_schedules.ir.plan import TensorInfo
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.lowering.steps import Step
from tvm_schedules.targets.registry import resolve


def step(**info: int) -> Step:
    return Step("", "", None, lambda: None, [], dict(info))


@pytest.mark.parametrize(
    ("info", "part"),
    [
        ({}, 1.0),
        ({"nonzero_macs": 100_000}, 1.0),
        ({"nonzero_macs": 200_000}, 1.0),
        ({"nonzero_macs": 800_000}, 0.25),
        ({"nonzero_macs": 1, "work": 400_000}, 0.5),
        ({"nonzero_macs": 400_000, "work": 0}, 1.0),
    ],
)
def test_a_thread_takes_some_microseconds_of_work_at_once(info: dict[str, int], part: float) -> None:
    assert cpu.GRAIN == 200_000
    assert cpu.grain(step(**info)) == part


def two_layers() -> tuple[Net, str]:
    """Linear layers of 24 and 30 multiply-adds, on bytes."""
    net = Net((1, 8), seed=3)
    first = net.const(np.int8(np.ones((3, 8))))
    y = net.op(
        "Gemm", net.quantize("input_0", 0.5, 3), net.op("DequantizeLinear", first, net.const(np.float32(0.5))), transB=1
    )
    second = net.const(np.int8(np.ones((10, 3))))
    y = net.quantize(y, 0.5, 7)
    return net, net.op("Gemm", y, net.op("DequantizeLinear", second, net.const(np.float32(0.25))), transB=1)


def test_a_call_runs_the_steps_from_its_first_to_before_its_last() -> None:
    net, y = two_layers()
    runner, x = Runner(net.model(y)), np.random.default_rng(1).normal(size=(1, 8)).astype(np.float32)
    want, count = run_onnx(net.model(y), x)[0], len(runner.plan.steps)
    assert count >= 2
    out = runner.outputs[0]

    def call(begin: int, end: int) -> np.ndarray:
        runner.function(runner.tensor(x), out, runner.arena, runner.constants, begin, end)
        return out.numpy()

    out.copyfrom(np.full((1, 10), 99, np.float32))
    for end in range(count):
        assert (call(0, end) == 99).all()
    np.testing.assert_allclose(call(count - 1, count), want, rtol=1e-5)
    out.copyfrom(np.full((1, 10), 99, np.float32))
    assert (call(count, count) == 99).all()
    for index in range(count):
        call(index, index + 1)
    np.testing.assert_allclose(out.numpy(), want, rtol=1e-5)
    np.testing.assert_allclose(call(0, count), want, rtol=1e-5)


def test_the_plan_says_what_was_made() -> None:
    net, y = two_layers()
    said: list[str] = []
    made = compile_model(net.model(y), resolve("host"), said.append)
    plan = made.plan
    assert plan.inputs == (TensorInfo("input_0", (1, 8), "float32"),)
    assert plan.outputs == (TensorInfo(y, (1, 10), "float32"),)
    spans = [span for constant in plan.constants for span in constant.outputs.values()]
    assert plan.constant_bytes == max(span.offset + span.nbytes for span in spans)
    assert {name for constant in plan.constants for name in constant.arrays.values()} == set(made.arrays)
    layers = [layer.name for layer in plan.layers]
    assert len(layers) == 2
    assert [step.name for step in plan.steps if step.name in layers] == layers
    for step in plan.steps:
        assert ("choice" in step.info) == (step.name in layers)
    assert [line.split(" ")[0] for line in said] == ["choosing", "generating", "compiling"]
    assert str(len(plan.steps)) in said[1]
    assert not made.wakes


def test_a_network_without_constants_has_memory_for_some() -> None:
    net = Net((2, 3))
    plan = compile_model(net.model(net.op("Reshape", "input_0", net.const(np.int64([3, 2])))), resolve("host")).plan
    assert plan.constant_bytes >= 64


def test_given_choices_are_taken() -> None:
    net = Net((1, 16, 12, 12))
    y = net.op("Conv", net.quantize("input_0", 0.05, 3), net.weight((16, 16, 3, 3), 0.8), net.bias(16), pads=[1] * 4)
    model = net.model(y)
    asked = []

    def choose(graph: object, target: object) -> dict[str, ScheduleConfig]:
        asked.append(target)
        return {y: ScheduleConfig("sparse")}

    target = resolve("host")
    plan = compile_model(model, target, choose=choose).plan
    assert asked == [target]
    assert [step.kernel for step in plan.steps if step.name == y] == ["sparse"]


@pytest.mark.parametrize(
    ("share", "wake", "own", "shared", "wakes"),
    [
        (0, 1000, True, True, False),  # both layers together are enough for threads that are awake
        (1, 1000, True, False, False),
        (0, 0, True, True, True),
        (0, 1, True, True, False),
        (0, 1, False, False, False),  # TVM's threads have to be woken
        (0, 0, False, True, True),
    ],
)
def test_who_shares_steps_and_who_is_woken(share: int, wake: int, own: bool, shared: bool, wakes: bool) -> None:
    """By how much more work than the network's is asked for."""
    net = Net((1, 256))
    y = "input_0"
    for _ in range(2):
        weight = net.op("DequantizeLinear", net.const(np.full((256, 256), 2, np.int8)), net.const(np.float32(0.5)))
        y = net.op("Gemm", net.quantize(y, 0.05, 3), weight, transB=1)
    work = 2 * 256 * 256
    with (
        mock.patch.object(cpu, "SHARE", work + share),
        mock.patch.object(cpu, "WAKE", work + wake),
        mock.patch.object(cpu.linking, "own_threads", return_value=own),
        mock.patch("tvm_schedules.compat.threads", wraps=compat.threads) as threads,
        mock.patch("tvm_schedules.compat.build_module"),
    ):
        made = compile_model(net.model(y), resolve("pi5"))
    works = [step.info.get("work", step.info.get("nonzero_macs", 0)) for step in made.plan.steps]
    assert sum(works) == work
    assert threads.called == shared
    assert made.wakes == wakes
