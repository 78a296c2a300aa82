"""Averages of planes and products of planes with one number each, in bytes and floats; all memory is guarded."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.guarded import guarded
from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tvm_schedules.targets.registry import resolve

SSE = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2"}'
X86 = resolve("host").architecture == "x86_64"
TARGETS = ["host", pytest.param(SSE, marks=pytest.mark.skipif(not X86, reason="code for x86"))]
SHAPES = [(1, 9, 13, 11), (2, 6, 5, 7), (1, 3, 1, 2), (1, 5, 16, 16), (1, 4, 1, 130)]


def excited(shape: tuple[int, ...], zero: int | None) -> onnx.ModelProto:
    """Squeeze and excitation of an image in bytes of that zero point, or in floats."""
    net, channels = Net(shape), shape[1]
    y = net.op("Conv", net.quantize("input_0", 0.02, 120), net.weight((channels, channels, 1, 1), 0.5))
    y = net.op("HardSwish", y)
    y = y if zero is None else net.quantize(y, 0.03, zero)
    gate = net.quantize(net.op("GlobalAveragePool", y), 0.01, 60)
    gate = net.op("HardSigmoid", net.op("Conv", gate, net.weight((channels, channels, 1, 1), 0.3)), alpha=1 / 6)
    z = net.quantize(net.op("Mul", y, gate), 0.02, 40)
    return net.model(z)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("zero", [None, 0, 17])
def test_squeeze_and_excitation(shape: tuple[int, ...], zero: int | None, target: str) -> None:
    model = excited(shape, zero)
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32) * 2
    (want,), (have,) = run_onnx(model, x), guarded(model, x, target=target)
    steps = np.abs(want - have) / 0.02
    assert steps.max() < 1.01
    assert (steps > 0.5).mean() < 0.02
    kernels = [step.kernel for step in Runner(model, target).plan.steps]
    assert kernels.count("global_pool") == kernels.count("pool") == 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 2, 250, 270)])
def test_averages_of_bytes_are_exact(shape: tuple[int, ...], target: str) -> None:
    """Behind a layer, whose planes have halos that are not to be counted; all bytes at their largest, too."""
    net = Net(shape)
    y = net.quantize(net.op("MaxPool", net.quantize("input_0", 1.0, 0), kernel_shape=[3, 3], pads=[1] * 4), 1.0, 0)
    model = net.model(net.op("GlobalAveragePool", y))
    for x in (np.random.default_rng(3).integers(0, 256, shape), np.full(shape, 255)):
        image = x.astype(np.float32)
        (have,) = guarded(model, image, target=target)
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        height, width = shape[2:]
        largest = np.max([padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
        exact = largest.sum((2, 3), dtype=np.int64) / (height * width)
        np.testing.assert_allclose(have[:, :, 0, 0], exact, rtol=2e-7)


@pytest.mark.parametrize("target", ["pi3", "pi4", "pi5"])
def test_arm_has_code_for_it(target: str) -> None:
    """Their numbers are compared in tests/arm."""
    kernels = [step.kernel for step in compile_model(excited((1, 8, 9, 9), 17), resolve(target)).plan.steps]
    assert kernels.count("global_pool") == kernels.count("pool") == 1
