"""Maxima read from images as they are, against onnxruntime: exact, for nothing is rounded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import compilations
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Net, Runner, compared, run_onnx
from tvm_schedules.targets.registry import resolve

STEP = 0.03


@dataclass(frozen=True)
class Case:
    shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    down: int
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    ceil: int
    zero: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 5)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    # ONNX wants pads smaller than the window.
    pads = [draw(st.integers(0, min(2, kernel[axis] - 1))) for _ in range(2) for axis in range(2)]
    dims = [
        draw(st.integers(max(1, span - pads[axis] - pads[axis + 2]), most))
        for axis, (span, most) in enumerate(zip(spans, (9, 150), strict=True))
    ]
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), dims[0], dims[1])
    ceil = draw(st.integers(0, 1))
    zero = 0 if any(pads) or ceil else draw(st.sampled_from([0, 90]))
    return Case(shape, kernel, draw(st.integers(1, 3)), dilations, (pads[0], pads[1], pads[2], pads[3]), ceil, zero)


@compilations(36)
@given(cases())
def test_random_windows(case: Case) -> None:
    net = Net(case.shape)
    window = {
        "kernel_shape": list(case.kernel),
        "strides": [case.down, 2],
        "dilations": list(case.dilations),
        "pads": list(case.pads),
        "ceil_mode": case.ceil,
    }
    y = net.op("MaxPool", net.quantize("input_0", STEP, case.zero), **window)
    model = net.model(net.quantize(y, STEP, case.zero))
    x = np.random.default_rng(0).normal(size=case.shape).astype(np.float32)
    runner = Runner(model)
    assert "pool_rows" in {step.kernel for step in runner.plan.steps}
    for want, have in compared(model, runner, [x]):
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("what", ["zero", "stride", "mean"])
def test_others_are_left_to_the_kernel_for_all_poolings(what: str) -> None:
    net, zero = Net((1, 2, 9, 12)), 40 if what == "zero" else 0
    strides = [2, 1] if what == "stride" else [2, 2]
    op = "AveragePool" if what == "mean" else "MaxPool"
    y = net.op(op, net.quantize("input_0", STEP, zero), kernel_shape=[3, 3], strides=strides, pads=[1] * 4)
    model = net.model(net.quantize(y, STEP, zero))
    plan = compile_model(model, resolve("host")).plan
    assert {"pool", "pool_rows"} & {step.kernel for step in plan.steps} == {"pool"}


def test_its_producer_writes_what_it_and_others_read() -> None:
    """A ternary convolution, whose planes a pooling with a wider border and another convolution read."""
    net = Net((1, 8, 21, 37))
    x = net.quantize("input_0", STEP, 12)
    x = net.quantize(net.op("Relu", net.op("Conv", x, net.weight((16, 8, 3, 3), 0.6), pads=[1] * 4)), STEP, 0)
    y = net.op("MaxPool", x, kernel_shape=[5, 5], strides=[2, 2], pads=[2] * 4)
    y = net.op("Conv", net.quantize(y, STEP, 0), net.weight((9, 16, 1, 1), 0.5))
    z = net.op("Conv", x, net.weight((9, 16, 3, 3), 0.5), strides=[2, 2], pads=[1] * 4)
    model = net.model(net.op("Add", y, z))
    data = np.random.default_rng(0).normal(size=(1, 8, 21, 37)).astype(np.float32)
    runner = Runner(model)
    assert "pool_rows" in {step.kernel for step in runner.plan.steps}
    np.testing.assert_allclose(runner(data)[0], run_onnx(model, data)[0], rtol=1e-4, atol=1e-4)
