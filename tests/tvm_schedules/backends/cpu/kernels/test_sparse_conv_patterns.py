"""The kernel of channels that share taps: exactly what a naive sum gives, over random shapes; where it is chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.properties import compilations, turns
from tests.tvm_schedules.backends.cpu.kernels.test_kernels import STEP, build
from tests.tvm_schedules.backends.cpu.kernels.test_kernels import Case as Rounded
from tests.tvm_schedules.backends.cpu.kernels.test_kernels import cases as rounded_cases
from tests.tvm_schedules.backends.cpu.kernels.test_low_bit import LEVELS, Case, Layer, cases, convolve
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Net, Runner, compared, run_onnx
from tvm_schedules import pipeline
from tvm_schedules.backends.cpu.kernels import sparse_conv_patterns
from tvm_schedules.backends.cpu.lower import CpuLowering
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.targets.registry import resolve

TOPS = ((0, 255), (9, 255), (0, 127), (3, 15), (0, 3))
"""Zero point and largest integer of activations of eight, seven, four and two bits."""
AVX2 = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}'
VNNI = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "cascadelake"}'


def forced(model: object, **numbers: int) -> Runner:
    def choose(graph: object, target: object) -> dict[str, ScheduleConfig]:
        nodes = graph.nodes  # type: ignore[attr-defined]
        return {node.name: ScheduleConfig.of("patterns", numbers) for node in nodes if node.op in ("Conv", "Gemm")}

    # Small layers, too, have their jobs dealt out as threads would share them.
    with mock.patch("tvm_schedules.lowering.base.Lowering.serial", 0):
        runner = Runner(compile_model(model, resolve("host"), None, choose))
    assert "patterns" in {step.kernel for step in runner.plan.steps}
    return runner


def weight(net: Net, shape: tuple[int, ...], case: Case, shared: int) -> tuple[str, np.ndarray]:
    """A ternary weight of as many terms as the case has, whose zeros output channels share, and its value."""
    name, value = "", np.zeros(shape)
    for t in range(case.terms):
        codes = net.codes(shape, case.zeros, shared)
        signs = [np.maximum(codes, 0), np.minimum(codes, 0)] if case.unequal else [codes]
        for i, part in enumerate(signs):
            level = LEVELS[(t + i) % 2]
            made = net.ternary(part.astype(np.int8), np.full(shape[0], level))
            name, value = net.op("Add", name, made) if name else made, value + part * level
    return name, value


@compilations(25)
@given(
    cases(), st.integers(2, 11), st.sampled_from([1, 2, 3, 4]), st.sampled_from([2, 3, 4]), st.integers(1, 6),
    st.integers(1, 3), st.sampled_from(TOPS), st.booleans(),
)  # fmt: skip
def test_sums_are_exact(
    case: Case, rows: int, shared: int, size: int, block: int, chunks: int, form: tuple[int, int], floats: bool
) -> None:
    """Against a naive sum. Floats are few multiples of a step, whose sums do not depend on their order."""
    assume(max(case.dims) > 1)  # an image of one pixel is a linear layer
    case = replace(case, rows=rows if case.groups == 1 else size * max(1, rows // size), form=form)
    layer = Layer((case.batch, case.groups * case.fan, *case.dims), form, case.seed)
    name, value = weight(layer.net, (case.groups * case.rows, case.fan, *case.kernel), case, shared)
    assume(value.any())
    shape = {"pads": list(case.pads), "strides": list(case.strides), "dilations": list(case.dilations)}
    y = layer.net.op("Conv", "input_0" if floats else layer.data, name, group=case.groups, **shape)
    runner = forced(layer.net.model(y), size=size, block=block, chunks=chunks)
    for _ in range(turns()):
        data, rounded = layer.input()
        want = convolve(data.astype(np.float64) if floats else rounded, value, case)
        np.testing.assert_array_equal(runner(data)[0], want)


@compilations(16)
@given(rounded_cases(), st.integers(2, 9), st.sampled_from([2, 4]), st.integers(1, 3))
def test_what_follows_the_sums_agrees_with_onnxruntime(case: Rounded, rows: int, size: int, block: int) -> None:
    assume(max(case.dims) > 1)
    case = replace(case, groups=1, rows=rows, zeros=min(case.zeros or 0.5, 0.9))
    net, y, out = build(case)
    rng = np.random.default_rng(case.seed)
    inputs = [rng.normal(size=s).astype(np.float32) for s in ((case.batch, case.fan, *case.dims), out)]
    model = net.model(y)
    try:
        runner = forced(model, size=size, block=block)
    except AssertionError:
        assume(False)  # all codes are zero
    for want, have in compared(model, runner, inputs):
        if case.out_zero is None:
            np.testing.assert_allclose(have, want, rtol=2e-4, atol=2e-4)
        else:
            assert np.abs(have - want).max(initial=0) < 1.01 * STEP


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("pixels", [5, 14])
def test_sums_too_long_for_sixteen_bits_go_on_in_float(size: int, pixels: int) -> None:
    net = Net((1, 60, pixels, pixels))
    codes = np.ones((5, 60, 3, 3), np.int8)
    codes[1] = -1
    codes[2, ::2] = -1
    codes[3] = 0
    y = net.op("Conv", net.quantize("input_0", 1.0, 0), net.ternary(codes, np.full(5, 1.0)), pads=[1] * 4)
    model, data = net.model(y), [np.full((1, 60, pixels, pixels), 255, np.float32)]
    np.testing.assert_array_equal(forced(model, size=size)(*data)[0], run_onnx(model, *data)[0])


def test_a_linear_layer_of_many_rows_is_a_convolution_of_one_pixel() -> None:
    net = Net((37, 50))
    codes = net.codes((34, 50), 0.6, 4)
    y = net.op("Gemm", net.quantize("input_0", 1.0, 7), net.ternary(codes, np.full(34, 0.5)), transB=1)
    data = np.random.default_rng(0).integers(-7, 240, (37, 50)).astype(np.float32)
    np.testing.assert_array_equal(forced(net.model(y), size=4)(data)[0], data @ codes.T * 0.5)


def step_of(
    zeros: float, shared: int, target: str, permuted: bool = False, size: int = 28, floats: bool = False
) -> Any:
    """The step of a 3x3 layer of 64 channels, whose activations are bytes or floats."""
    net = Net((1, 64, size, size))
    codes = net.codes((64, 64, 3, 3), zeros, shared)
    codes = net.rng.permutation(codes) if permuted else codes
    x = "input_0" if floats else net.quantize("input_0")
    y = net.op("Conv", x, net.ternary(codes, np.full(64, 0.05)), pads=[1] * 4)
    lowering = CpuLowering(pipeline.read_graph(net.model(y if floats else net.quantize(y))), resolve(target))
    lowering.run()
    return next(step for step in lowering.steps if hasattr(step.spec, "epilogue") and step.spec.epilogue)


def kernel_of(zeros: float, shared: int, target: str, **options: Any) -> str:
    """The kernel of :func:`step_of`."""
    return str(step_of(zeros, shared, target, **options).kernel)


@pytest.mark.parametrize("target", [AVX2, VNNI, "a53", "a72", "a76"], ids=["avx2", "vnni", "a53", "a72", "a76"])
@pytest.mark.parametrize("permuted", [False, True])
def test_shared_zeros_are_used(target: str, permuted: bool) -> None:
    """At 80 % zeros, in groups of four, whether they stand side by side or not; and not where nothing is shared.

    Where vectors have 32 bytes, pairs of what chance shares were measured to be faster than lists.
    """
    assert kernel_of(0.8, 4, target, permuted=permuted) == "patterns"
    assert kernel_of(0.95, 1, target) != "patterns"
    assert (kernel_of(0.8, 1, target) == "patterns") == (target == AVX2)


def test_images_of_few_vectors_keep_lists_unless_zeros_are_shared() -> None:
    """Measured: 64 channels at 4x4 and 57 % zeros take 10 us by lists and 16 by patterns, in groups of four 8 and 6."""
    assert kernel_of(0.57, 1, AVX2, size=28) == "patterns"
    assert kernel_of(0.57, 1, AVX2, size=4) != "patterns"
    assert kernel_of(0.6, 4, AVX2, size=4) == "patterns"


def test_blocks_that_a_plane_leaves_unfilled_count() -> None:
    """8x8 pixels are three vectors: one block of pairs, two of threes, which took 18.5 and 26 us at half of zeros."""
    assert [sparse_conv_patterns._blocks(7, 3), sparse_conv_patterns._blocks(6, 3)] == [[3, 3, 1], [3, 3]]
    assert step_of(0.5, 1, AVX2, size=8).spec.size == 2
    with mock.patch.object(sparse_conv_patterns, "NARROW", {}):  # by the number of blocks alone
        assert step_of(0.5, 1, AVX2, size=8).spec.size == 2
        with mock.patch.object(sparse_conv_patterns, "_blocks", lambda vectors, block: [block]):
            assert step_of(0.5, 1, AVX2, size=8).spec.size == 3


def test_dot_products_are_for_dense_weights_that_share_nothing() -> None:
    assert kernel_of(0.5, 4, "a76") == kernel_of(0.5, 4, VNNI) == "patterns"
    assert kernel_of(0.4, 1, "a76").startswith("dense_")
    assert kernel_of(0.4, 1, VNNI).startswith("dense_")


def test_floats_that_share_zeros() -> None:
    """Measured on Zen 3, 64 channels at 56x56, us: lists 7800, 1340, 640; instructions 560 and 330; here 770, 370, 230.

    Those are 50, 80 and 90 % zeros in groups of four. With 80 % and nothing shared, instructions take 580 and this 930.
    """
    for zeros in (0.5, 0.8, 0.9):
        assert kernel_of(zeros, 4, AVX2, floats=True) == "patterns"
        assert kernel_of(zeros, 4, "a72", floats=True) == "patterns"
    assert kernel_of(0.5, 1, AVX2, floats=True) == "patterns"
    assert kernel_of(0.8, 1, AVX2, floats=True) == kernel_of(0.95, 1, AVX2, floats=True) == "straight"
    assert kernel_of(0.9, 1, "a72", floats=True) == "sparse"


@pytest.mark.parametrize("floats", [False, True])
def test_terms_and_groups_that_share_zeros(floats: bool) -> None:
    """Two levels, two terms, and two groups of a convolution of 64 channels at 28x28, 50 % zeros in groups of four."""
    for terms, unequal, groups in ((1, True, 1), (2, False, 1), (1, False, 2)):
        net = Net((1, 64, 28, 28))
        case = Case(
            1, groups, 64 // groups, 64, (28, 28), (3, 3), (1, 1), (1, 1), (1,) * 4, (0, 255), 0.5, terms, unequal, 0
        )
        name, _ = weight(net, (64, 64 // groups, 3, 3), case, 4)
        y = net.op("Conv", "input_0" if floats else net.quantize("input_0"), name, pads=[1] * 4, group=groups)
        lowering = CpuLowering(pipeline.read_graph(net.model(y if floats else net.quantize(y))), resolve(AVX2))
        lowering.run()
        assert "patterns" in {step.kernel for step in lowering.steps}
