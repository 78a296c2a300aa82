"""Every kernel for graphics processors against onnxruntime, over random shapes: OpenCL source through PoCL, CUDA source
on the CPU."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given

from tests.properties import compilations
from tests.tvm_schedules.backends.cpu.kernels.test_kernels import STEP, Case, build, cases
from tests.tvm_schedules.backends.gpu.runners import GpuRunner
from tests.tvm_schedules.nets import Net, compared, resnet, run_onnx

TARGETS = ["opencl", "cuda"]


def check(target: str, model: onnx.ModelProto, inputs: list[np.ndarray], step: float | None) -> set[str]:
    """Compares, and returns the names of the kernels that ran."""
    runner = GpuRunner(model, target)
    for want, have in compared(model, runner, inputs):
        assert want.shape == have.shape
        if step is None:
            np.testing.assert_allclose(have, want, rtol=2e-4, atol=2e-4)
        else:
            steps = np.abs(have - want) / step
            assert steps.max(initial=0) < 1.01, "more than one quantization step away"
            assert (steps > 0.5).mean() < 0.02, "too many values are rounded otherwise"
    return {s.kernel for s in runner.plan.steps}


@pytest.mark.parametrize("target", TARGETS)
@compilations(8)
@given(cases())
def test_convolution_agrees_with_onnxruntime(target: str, case: Case) -> None:
    net, y, out = build(case)
    rng = np.random.default_rng(case.seed)
    inputs = [rng.normal(size=s).astype(np.float32) for s in ((case.batch, case.groups * case.fan, *case.dims), out)]
    check(target, net.model(y), inputs, STEP if case.out_zero is not None else None)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("kernel", "zeros", "zero", "groups"),
    [
        ("conv_dot", 0.1, 7, 1),
        ("conv_dot", None, 128, 1),
        ("conv_dot", None, 0, 12),
        ("sparse", 0.95, 7, 1),
        ("sparse", 0.95, None, 3),
        ("dense", None, None, 1),
        ("dense", None, None, 12),
    ],
)
def test_each_convolution_kernel(target: str, kernel: str, zeros: float | None, zero: int | None, groups: int) -> None:
    net = Net((2, 12, 17, 13))
    x = "input_0" if zero is None else net.quantize("input_0", STEP, zero)
    weight = net.weight((24, 12 // groups, 3, 3), zeros, int8=zero is not None)
    y = net.op("Conv", x, weight, net.bias(24), pads=[1] * 4, group=groups)
    y = net.quantize(net.op("Relu", y), STEP, 3)
    x_value = np.random.default_rng(5).normal(size=(2, 12, 17, 13)).astype(np.float32)
    assert kernel in check(target, net.model(y), [x_value], STEP)


@pytest.mark.parametrize("target", TARGETS)
def test_slices_of_taps_add_up(target: str) -> None:
    """A small image with many channels: several threads share the taps of a pixel."""
    net = Net((1, 70, 5, 6))
    y = net.op("Conv", net.quantize("input_0", STEP, 128), net.weight((9, 70, 3, 3), 0.1), net.bias(9), pads=[1] * 4)
    model = net.model(net.quantize(y, STEP, 100))
    x_value = np.random.default_rng(6).normal(size=(1, 70, 5, 6)).astype(np.float32)
    runner = GpuRunner(model, target)
    entry = next(c for c in runner.plan.constants if c.packing == "gpu_conv_dot")
    assert entry.params["slices"] > 1
    steps = np.abs(runner(x_value)[0] - run_onnx(model, x_value)[0]) / STEP
    assert steps.max() < 1.01


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "AveragePool-pads"])
@pytest.mark.parametrize("zero", [None, 40])
def test_pooling(target: str, op: str, zero: int | None) -> None:
    net = Net((2, 5, 9, 7))
    x = "input_0" if zero is None else net.quantize("input_0", STEP, zero)
    extra = {"count_include_pad": 1} if op.endswith("pads") else {}
    y = net.op(op.split("-")[0], x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, **extra)
    step = STEP if op == "MaxPool" else 0.0373  # see tests/tvm_schedules/backends/cpu/kernels/test_kernels.py
    y = net.quantize(y, step, zero) if zero is not None else y
    x_value = np.random.default_rng(1).normal(size=(2, 5, 9, 7)).astype(np.float32) - 0.5
    check(target, net.model(y), [x_value], None if zero is None else step)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "zero", "zeros", "out", "kernel"),
    [
        (1, 2048, 45, 0, 0.6, None, "linear_dot"),
        (1, 301, 45, 128, 0.6, 20, "linear_dot"),
        (1, 5000, 1030, 3, 0.5, None, "linear_dot"),
        (3, 301, 45, 128, 1.0, None, "linear_dot"),
        (7, 320, 33, 128, 0.3, 20, "linear_dot"),
        (13, 324, 9, 128, 0.3, None, "linear_dot"),
        (1, 300, 45, 128, None, None, "linear_dot"),
        (5, 130, 45, 0, None, 20, "linear_dot"),
        (37, 300, 45, 128, 0.1, 20, "conv_dot"),
        (37, 300, 45, 128, 0.95, 20, "sparse"),
        (3, 300, 45, None, 0.6, None, "linear"),
        (3, 300, 45, None, None, 20, "linear"),
    ],
)
def test_linear(
    target: str,
    rows: int,
    inputs: int,
    outputs: int,
    zero: int | None,
    zeros: float | None,
    out: int | None,
    kernel: str,
) -> None:
    net = Net((rows, inputs))
    x = "input_0" if zero is None else net.quantize("input_0", STEP, zero)
    weight = net.weight((outputs, inputs), zeros, int8=zero is not None)
    y = net.op("Gemm", x, weight, net.bias(outputs), transB=1)
    y = net.quantize(net.op("Relu", y), STEP, out) if out is not None else y
    x_value = np.random.default_rng(3).normal(size=(rows, inputs)).astype(np.float32)
    assert kernel in check(target, net.model(y), [x_value], None if out is None else STEP)


@pytest.mark.parametrize("target", TARGETS)
def test_residual_network(target: str) -> None:
    model = resnet([(16, 1), (24, 2)], 11, 0.7)
    x_value = np.random.default_rng(7).normal(size=(1, 3, 11, 11)).astype(np.float32)
    want, have = run_onnx(model, x_value)[0], GpuRunner(model, target)(x_value)[0]
    assert np.abs(have - want).max() <= 0.02 * np.abs(want).max()
