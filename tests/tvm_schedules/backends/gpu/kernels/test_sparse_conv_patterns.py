"""Channels that share taps on graphics processors: what a naive sum gives, over random shapes; where they are taken."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.properties import compilations, turns
from tests.tvm_schedules.backends.cpu.kernels.test_low_bit import LEVELS, Case, Layer, cases, convolve
from tests.tvm_schedules.backends.gpu.runners import GpuRunner
from tests.tvm_schedules.nets import Net
from tvm_schedules import pipeline
from tvm_schedules.backends.gpu.kernels import sparse_conv_patterns as patterns
from tvm_schedules.backends.gpu.lower import GpuLowering
from tvm_schedules.targets.registry import resolve

TOPS = ((0, 255), (9, 255), (3, 15))
"""Zero point and largest integer."""


def forced(model: object, target: str, size: int) -> GpuRunner:
    with mock.patch.object(patterns, "_choice", return_value=(size, True)):
        runner = GpuRunner(model, target)
    assert "patterns" in {step.kernel for step in runner.plan.steps}
    return runner


@pytest.mark.parametrize("target", ["opencl", "cuda"])
@compilations(10)
@given(
    cases(), st.integers(2, 11), st.sampled_from([1, 2, 4]), st.sampled_from([2, 3, 4]), st.sampled_from(TOPS),
    st.booleans(),
)  # fmt: skip
def test_sums_are_exact(
    target: str, case: Case, rows: int, shared: int, size: int, form: tuple[int, int], floats: bool
) -> None:
    """Floats are multiples of a step, whose sums do not depend on their order."""
    assume(max(case.dims) > 1)  # an image of one pixel is a linear layer
    case = replace(case, groups=1, rows=rows, form=form)
    layer = Layer((case.batch, case.fan, *case.dims), form, case.seed)
    codes = layer.net.codes((rows, case.fan, *case.kernel), case.zeros, shared)
    assume(codes.any())
    weight = layer.net.ternary(codes, np.full(rows, LEVELS[0]))
    shape = {"pads": list(case.pads), "strides": list(case.strides), "dilations": list(case.dilations)}
    y = layer.net.op("Conv", "input_0" if floats else layer.data, weight, **shape)
    runner = forced(layer.net.model(y), target, size)
    for _ in range(turns()):
        data, rounded = layer.input()
        want = convolve(data.astype(np.float64) if floats else rounded, codes * LEVELS[0], case)
        np.testing.assert_array_equal(runner(data)[0], want)


@pytest.mark.parametrize("target", ["opencl", "cuda"])
def test_a_linear_layer_of_many_rows_is_a_convolution_of_one_pixel(target: str) -> None:
    net = Net((37, 50))
    codes = net.codes((34, 50), 0.6, 4)
    y = net.op("Gemm", net.quantize("input_0", 1.0, 7), net.ternary(codes, np.full(34, 0.5)), transB=1)
    data = np.random.default_rng(0).integers(-7, 240, (37, 50)).astype(np.float32)
    np.testing.assert_array_equal(forced(net.model(y), target, 4)(data)[0], data @ codes.T * 0.5)


def kernel_of(zeros: float, shared: int, target: str, size: int = 56, floats: bool = False) -> str:
    """The kernel of a 3x3 layer of 64 channels, whose activations are bytes or floats."""
    net = Net((1, 64, size, size))
    x = "input_0" if floats else net.quantize("input_0")
    codes = net.rng.permutation(net.codes((64, 64, 3, 3), zeros, shared))
    y = net.op("Conv", x, net.ternary(codes, np.full(64, 0.05)), pads=[1] * 4)
    lowering = GpuLowering(pipeline.read_graph(net.model(y if floats else net.quantize(y))), resolve(target))
    lowering.run()
    return next(step.kernel for step in lowering.steps if "macs" in step.info)


def test_layers_that_share_zeros_are_taken_where_fewer_loads_are_counted() -> None:
    assert kernel_of(0.8, 4, "opencl", 112) == kernel_of(0.8, 4, "opencl", 112, floats=True) == "patterns"
    assert kernel_of(0.8, 4, "cuda", 112) == "patterns"
    assert kernel_of(0.5, 4, "cuda", 112) == kernel_of(0.5, 1, "cuda", 112) == "conv_dot"
    assert kernel_of(0.95, 1, "opencl", 112) == kernel_of(0.9, 1, "opencl", 112, floats=True) == "sparse"


def test_images_of_few_threads_keep_a_thread_for_each_channel() -> None:
    assert kernel_of(0.8, 4, "opencl", 14) == "sparse"
