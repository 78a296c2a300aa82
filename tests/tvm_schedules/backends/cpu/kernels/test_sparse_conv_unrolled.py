"""Unrolled code against onnxruntime, forced on layers that it would leave to others."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import compilations
from tests.tvm_schedules.backends.cpu.kernels.test_kernels import STEP, Case, build, cases
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Net, Runner, compared, run_onnx
from tvm_schedules.backends.cpu.compile import CpuCompiled
from tvm_schedules.backends.cpu.kernels import sparse_conv_unrolled as unrolled
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.targets import host_cpu as cpu
from tvm_schedules.targets.registry import resolve

AVX2 = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}'
TARGETS = [target for target in ("host", AVX2) if target == "host" or {"avx2", "fma"} <= (cpu.features() or set())]

pytestmark = pytest.mark.skipif(
    resolve("host").vector_bytes not in unrolled.MOST_ACCUMULATORS or cpu.architecture() != "x86_64",
    reason="for AVX2 and AVX-512",
)


def forced(model: object, target: str = "host", **numbers: int) -> CpuCompiled:
    def choose(graph: object, target: object) -> dict[str, ScheduleConfig]:
        nodes = graph.nodes  # type: ignore[attr-defined]
        return {node.name: ScheduleConfig.of("straight", numbers) for node in nodes if node.op in ("Conv", "Gemm")}

    with (
        mock.patch.object(unrolled, "MOST_DENSITY", 1.0 * 9),
        mock.patch.object(unrolled, "MOST_CODES", 1 << 30),
    ):
        return compile_model(model, resolve(target), None, choose)


def agree(model: object, inputs: list[np.ndarray], step: float | None, target: str = "host", **numbers: int) -> None:
    compiled = forced(model, target, **numbers)
    assert "straight" in {entry.kernel for entry in compiled.plan.steps}
    for want, have in compared(model, Runner(compiled), inputs):
        if step is None:
            np.testing.assert_allclose(have, want, rtol=2e-4, atol=2e-4)
        else:
            assert np.abs(have - want).max(initial=0) < 1.01 * step


@pytest.mark.parametrize("target", TARGETS)
@compilations(14)
@given(case=cases(), chunks=st.integers(1, 3), blocks=st.integers(1, 3))
def test_random_convolutions(target: str, case: Case, chunks: int, blocks: int) -> None:
    case = replace(case, zero=None, zeros=case.zeros if case.zeros is not None else 0.7)
    net, y, out = build(case)
    rng = np.random.default_rng(case.seed)
    shape = (case.batch, case.groups * case.fan, *case.dims)
    inputs = [rng.normal(size=s).astype(np.float32) for s in (shape, out)]
    chunks = min(chunks, case.rows * case.groups)
    # Small layers, too, have their jobs dealt out as threads would share them.
    with mock.patch("tvm_schedules.lowering.base.Lowering.serial", 0):
        agree(net.model(y), inputs, STEP if case.out_zero is not None else None, target, chunks=chunks, blocks=blocks)


@pytest.mark.parametrize(("rows", "numbers"), [(5, {}), (24, {}), (25, {}), (70, {}), (11, {"chunks": 8})])
def test_output_channels_in_several_groups_some_without_codes(rows: int, numbers: dict[str, int]) -> None:
    net = Net((1, 9, 10, 21), seed=rows)
    codes = net.codes((rows, 9, 3, 3), 0.8)
    codes[::3] = 0
    y = net.op("Conv", "input_0", net.ternary(codes, np.linspace(0.5, 1.5, rows)), net.bias(rows), pads=[1] * 4)
    agree(net.model(y), [np.random.default_rng(0).normal(size=(1, 9, 10, 21)).astype(np.float32)], None, **numbers)


def test_all_weights_zero_leave_the_bias() -> None:
    net = Net((1, 3, 5, 5))
    codes = np.zeros((4, 3, 3, 3), np.int8)
    y = net.op("Conv", "input_0", net.ternary(codes, np.ones(4)), net.const(np.arange(4, dtype=np.float32)))
    have = Runner(forced(net.model(y)))(np.ones((1, 3, 5, 5), np.float32))[0]
    np.testing.assert_array_equal(have, np.broadcast_to(np.arange(4, dtype=np.float32)[:, None, None], (1, 4, 3, 3)))


def test_rows_of_a_linear_layer() -> None:
    net = Net((37, 50))
    y = net.op("Gemm", "input_0", net.weight((33, 50), 0.9), net.bias(33), transB=1)
    agree(net.model(y), [np.random.default_rng(0).normal(size=(37, 50)).astype(np.float32)], None)


@pytest.mark.parametrize("size", [3, 8, 17])
@pytest.mark.parametrize("terms", [1, 2])
def test_threads_do_not_change_the_result(size: int, terms: int) -> None:
    net, data = Net((1, 16, size, size), seed=3), np.random.default_rng(0).normal(size=(1, 16, size, size))
    x = "input_0"
    for _ in range(3):
        x = net.op("Relu", net.op("Conv", x, net.weight((16, 16, 3, 3), 0.9, terms), net.bias(16), pads=[1] * 4))
    found = []
    for share in (0, 1 << 60):
        with (
            mock.patch("tvm_schedules.backends.cpu.compile.SHARE", share),
            mock.patch("tvm_schedules.lowering.base.Lowering.serial", 0),
        ):
            found += Runner(forced(net.model(x)))(data.astype(np.float32))
    assert np.array_equal(found[0], found[1])


@pytest.mark.parametrize(("zeros", "rows", "taken"), [(0.9, 16, True), (0.6, 16, False), (0.9, 400, False)])
def test_layers_of_many_codes_are_left_to_others(zeros: float, rows: int, taken: bool) -> None:
    net = Net((1, 60, 9, 9))
    y = net.op("Conv", "input_0", net.weight((rows, 60, 3, 3), zeros), pads=[1] * 4)
    plan = compile_model(net.model(y), resolve("host")).plan
    assert ("straight" in {step.kernel for step in plan.steps}) == taken
    layer = plan.layers[0]
    assert (layer.bytes == unrolled.BYTES_PER_CODE * round((1 - layer.sparsity) * rows * 540)) == taken


def test_layers_that_nothing_shares_are_no_loop_of_threads() -> None:
    """Work for threads, and a single job a layer: TVM refuses to start threads around no parallel loop."""
    net = Net((1, 64, 3, 3))
    x = "input_0"
    for _ in range(4):
        x = net.op("Conv", x, net.weight((64, 64, 3, 3), 0.8), pads=[1] * 4)
    data = np.random.default_rng(0).normal(size=(1, 64, 3, 3)).astype(np.float32)
    with (
        mock.patch.object(unrolled, "MOST_DENSITY", 0.0),
        mock.patch("tvm_schedules.backends.cpu.compile.SHARE", 0),
    ):
        have = Runner(compile_model(net.model(x), resolve("host")))(data)
    np.testing.assert_allclose(have[0], run_onnx(net.model(x), data)[0], rtol=2e-3, atol=2e-3)
