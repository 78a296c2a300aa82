"""The dense kernels of dot products against onnxruntime, with every size of their blocks."""

from __future__ import annotations

import re
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.properties import compilations
from tests.tvm_schedules.backends.cpu.kernels.test_kernels import STEP, Case, build, cases, check
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Net, Runner, compared
from tvm_schedules import compat
from tvm_schedules.backends.cpu.kernels import dense_conv_dot_channels as dense_channels
from tvm_schedules.backends.cpu.kernels.common.dot_product import available
from tvm_schedules.backends.cpu.kernels.common.epilogue import every_fourth, fours
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.targets.registry import resolve

pytestmark = pytest.mark.skipif(available(resolve("host")) is None, reason="needs a CPU with 8-bit dot products")


@pytest.mark.skipif(resolve("host").vector_bytes != 64, reason="counts accesses by vectors of a cache line")
def test_registers_on_the_stack_do_not_cross_lines() -> None:
    net = Net((1, 3, 64, 64))
    weight = net.weight((32, 3, 3, 3), None, int8=True)
    y = net.op("Relu", net.op("Conv", net.quantize("input_0", 0.02, 0), weight, pads=[1] * 4, strides=[2, 2]))
    module = compile_model(net.model(net.quantize(y)), resolve("host")).module
    code = "".join(part.inspect_source("asm") for part in module.imports) or module.inspect_source("asm")
    moves = re.findall(r"(vmov\w+)\s+(?:%zmm\d+, )?-?\d*\(%rsp\)", code)
    assert moves  # there are more values than registers
    assert not [move for move in moves if not move.startswith(("vmovdqa", "vmovaps", "vmovapd"))]


@pytest.mark.parametrize("enough", [False, True])
def test_zeros_are_as_much_work_as_other_packed_codes(enough: bool) -> None:
    net = Net((1, 512))
    weight = net.weight((256, 512), 0.95)
    model = net.model(net.op("Gemm", net.quantize("input_0", STEP, 3), weight, net.bias(256), transB=1))
    with (
        mock.patch("tvm_schedules.backends.cpu.compile.SHARE", 256 * 512 + (not enough)),
        mock.patch("tvm_schedules.backends.cpu.compile.WAKE", 256 * 512 + (not enough)),
        mock.patch("tvm_schedules.compat.threads", wraps=compat.threads) as threads,
    ):
        made = compile_model(model, resolve("host"))
    assert threads.called == made.wakes == enough


def test_many_layers_too_small_to_share_need_no_threads() -> None:
    net = Net((1, 64))
    y = "input_0"
    for _ in range(3):
        y = net.op("Gemm", net.quantize(y, STEP, 3), net.weight((64, 64), 0.5), net.bias(64), transB=1)
    with mock.patch("tvm_schedules.backends.cpu.compile.SHARE", 3 * 64 * 64):
        check(net.model(y), [np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)], None)


def agree(case: Case, kernel: str, **numbers: int) -> None:
    net, y, out = build(case)

    def choose(graph: object, target: object) -> dict[str, ScheduleConfig]:
        nodes = graph.nodes  # type: ignore[attr-defined]
        return {node.name: ScheduleConfig.of(kernel, numbers) for node in nodes if node.op == "Conv"}

    runner = Runner(compile_model(net.model(y), resolve("host"), None, choose))
    assert kernel in {entry.kernel for entry in runner.plan.steps}
    rng = np.random.default_rng(case.seed)
    inputs = [rng.normal(size=s).astype(np.float32) for s in ((case.batch, case.groups * case.fan, *case.dims), out)]
    for want, have in compared(net.model(y), runner, inputs):
        if case.out_zero is None:
            np.testing.assert_allclose(have, want, rtol=2e-4, atol=2e-4)
        else:
            steps = np.abs(have - want) / STEP
            assert steps.max(initial=0) < 1.01
            assert (steps > 0.5).mean() < 0.02


@compilations(25)
@given(cases(), st.integers(1, 4), st.integers(1, 6))
def test_random_convolutions(case: Case, block: int, tile: int) -> None:
    assume(max(case.dims) > 1)  # an image of one pixel is a linear layer
    case = replace(case, terms=1, unequal=False, zero=case.zero or 0, rows=case.rows + 3, fan=case.fan + 3)
    agree(case, "dense_dot", block=block, tile=tile)


@pytest.mark.skipif(resolve("host").vector_bytes != 64, reason="channels in the lanes are for vectors of a cache line")
@compilations(25)
@given(cases(), st.sampled_from([1, 2, 4]), st.sampled_from([4, 33, 70]))
def test_random_convolutions_with_channels_in_the_lanes(case: Case, chunks: int, rows: int) -> None:
    assume(len(case.dims) < 3 and max(case.dims) > 1)  # an image of one pixel is a linear layer
    case = replace(case, terms=1, unequal=False, groups=1, zero=case.zero or 0, rows=rows, fan=case.fan + 3)
    agree(case, "dense_channels", chunks=chunks)


@pytest.mark.skipif(resolve("host").vector_bytes != 64, reason="channels in the lanes are for vectors of a cache line")
@pytest.mark.parametrize("size", [(7, 7), (14, 14), (15, 14), (8, 8), (30, 31)])
@pytest.mark.parametrize("residual", ["", "quantized"])
def test_images_that_leave_lanes_empty_have_channels_there(size: tuple[int, int], residual: str) -> None:
    case = Case(
        batch=2, groups=1, fan=65, rows=50, dims=size, kernel=(3, 3), strides=(1, 1), dilations=(1, 1),
        pads=(1, 1, 1, 1), zero=7, zeros=0.3, terms=1, after="Relu", residual=residual, out_zero=0, seed=5
    )  # fmt: skip
    net, y, _ = build(case)
    plan = compile_model(net.model(y), resolve("host")).plan
    assert ("dense_channels" in {entry.kernel for entry in plan.steps}) == (size != (30, 31))
    agree(case, "dense_channels")


@pytest.mark.parametrize(("rows", "pitch", "want"), [(7, 8, 7), (14, 16, 7), (14, 15, 14), (8, 9, 8), (30, 16, 8)])
def test_blocks_are_whole_vectors_and_two_threads_have_as_many(rows: int, pitch: int, want: int) -> None:
    assert dense_channels.high(rows, pitch) == want


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_orders_of_pixels_are_those_of_shifts_and_of_unpacking(lanes: int) -> None:
    words = np.arange(4 * lanes, dtype=np.uint8).view(np.uint32)
    assert every_fourth(lanes) == [int(w >> 8 * i & 255) for i in range(4) for w in words]
    # Four rows of bytes; unpacked twice within every 16 bytes, each 32 bits hold a column.
    taps = [np.arange(4 * lanes).reshape(-1, 16) for _ in range(4)]
    ends = [np.s_[:, :8], np.s_[:, 8:]]
    pairs = [[np.stack([a[end], b[end]], 2).reshape(-1, 8, 2) for end in ends] for a, b in (taps[:2], taps[2:])]
    columns = [
        np.concatenate([low[:, half], high[:, half]], 2)
        for low, high in zip(*pairs, strict=True)
        for half in (slice(0, 4), slice(4, 8))
    ]
    assert all((part == part[:, :, :1]).all() for part in columns)
    assert fours(lanes) == [int(pixel) for part in columns for pixel in part[:, :, 0].ravel()]
