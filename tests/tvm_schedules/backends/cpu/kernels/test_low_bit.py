"""Kernels for activations of few bits: exactly what a naive sum gives, over random shapes; where they are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.properties import compilations, turns
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tvm_schedules.backends.cpu.compile import CpuCompiled
from tvm_schedules.backends.cpu.kernels import popcount_conv as popcount
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.targets.registry import resolve

STEP = 0.25
LEVELS = (0.5, 2.0)
FORMS = [(0, 1), (0, 2), (1, 2), (0, 3), (2, 3), (3, 6), (0, 15), (8, 15)]
"""Zero point and largest integer: one bit, two, ternary, signed with two levels, four bits."""


@dataclass(frozen=True)
class Case:
    """One layer."""

    batch: int
    groups: int
    fan: int
    rows: int
    dims: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    form: tuple[int, int]
    zeros: float
    terms: int
    unequal: bool
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    pair = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))  # noqa: E731
    dims, kernel, dilations = pair(1, 19), pair(1, 3), pair(1, 2)
    pads = []
    for side in range(2):
        for n, k, d in zip(dims, kernel, dilations, strict=True):
            short = max(0, d * (k - 1) + 1 - n)
            pads.append(draw(st.integers(-(-short // 2) if side == 0 else short - short // 2, short + d)))
    return Case(
        batch=draw(st.sampled_from([1, 1, 2])),
        groups=draw(st.sampled_from([1, 1, 2, 3])),
        fan=draw(st.integers(1, 21)),
        rows=draw(st.integers(1, 6)),
        dims=dims,
        kernel=kernel,
        strides=pair(1, 3),
        dilations=dilations,
        pads=(pads[0], pads[1], pads[2], pads[3]),
        form=draw(st.sampled_from(FORMS)),
        zeros=draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
        terms=draw(st.sampled_from([1, 1, 2])),
        unequal=draw(st.booleans()),
        seed=draw(st.integers(0, 1 << 16)),
    )


class Layer:
    """A network of one layer whose sums are exact in float32, and their naive reference."""

    def __init__(self, shape: tuple[int, ...], form: tuple[int, int], seed: int) -> None:
        self.net, self.form, self.shape = Net(shape, seed=seed), form, shape
        zero, top = form
        low, high = (self.net.const(np.float32((q - zero) * STEP)) for q in (0, top))
        self.data = self.net.quantize(self.net.op("Clip", "input_0", low, high), STEP, zero)

    def weight(self, shape: tuple[int, ...], zeros: float, terms: int = 1, unequal: bool = False) -> tuple[str, Any]:
        """A ternary weight with a level of a term (and sign), and its value."""
        parts = []
        for t in range(terms):
            codes = self.net.codes(shape, zeros)
            signs = [np.maximum(codes, 0), np.minimum(codes, 0)] if unequal else [codes]
            parts += [(part.astype(np.int8), LEVELS[(t + i) % 2]) for i, part in enumerate(signs)]
        names = [self.net.ternary(codes, np.full(shape[0], level)) for codes, level in parts]
        name = names[0]
        for other in names[1:]:
            name = self.net.op("Add", name, other)
        return name, sum(codes.astype(np.float64) * level for codes, level in parts)

    def input(self) -> tuple[np.ndarray, np.ndarray]:
        """Data that reaches beyond the levels, and what it is rounded to."""
        zero, top = self.form
        q = self.net.rng.integers(-2, top + 3, self.shape)
        return ((q - zero) * STEP).astype(np.float32), (np.clip(q, 0, top) - zero) * STEP


def convolve(x: np.ndarray, weight: np.ndarray, case: Case) -> np.ndarray:
    """The sum that a convolution is, tap by tap in float64."""
    top, left, bottom, right = case.pads
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    (sh, sw), (dh, dw), (kh, kw) = case.strides, case.dilations, case.kernel
    h, w = (
        (n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(x.shape[2:], (dh, dw), (kh, kw), (sh, sw), strict=True)
    )
    out = np.zeros((case.batch, case.groups, case.rows, h, w))
    x = x.reshape(case.batch, case.groups, case.fan, *x.shape[2:])
    weight = weight.reshape(case.groups, case.rows, case.fan, kh, kw)
    for i, j in product(range(kh), range(kw)):
        part = x[:, :, :, i * dh : i * dh + (h - 1) * sh + 1 : sh, j * dw : j * dw + (w - 1) * sw + 1 : sw]
        out += np.einsum("ngchw,goc->ngohw", part, weight[..., i, j])
    return out.reshape(case.batch, -1, h, w)


COUNTS = pytest.mark.skipif(not popcount.counts_bytes(resolve("host")), reason="this CPU does not count bits of bytes")
BOTH = pytest.mark.parametrize("kernel", ["narrow", pytest.param("popcount", marks=COUNTS)])


def compiled(layer: Layer, y: str, kernel: str | None, target: str = "host") -> CpuCompiled:
    choice = {y: ScheduleConfig(kernel)} if kernel else {}
    return compile_model(layer.net.model(y), resolve(target), choose=lambda *_: choice)


def runs(layer: Layer, y: str, kernel: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    runner = Runner(compiled(layer, y, kernel))
    assert kernel in {step.kernel for step in runner.plan.steps}
    for _ in range(turns()):
        data, rounded = layer.input()
        yield runner(data)[0], rounded


@BOTH
@compilations(14)
@given(case=cases())
def test_convolutions(kernel: str, case: Case) -> None:
    assume(max(case.dims) > 1)  # an image of one pixel is a linear layer
    layer = Layer((case.batch, case.groups * case.fan, *case.dims), case.form, case.seed)
    shape = (case.groups * case.rows, case.fan, *case.kernel)
    name, weight = layer.weight(shape, case.zeros, case.terms, case.unequal)
    y = layer.net.op(
        "Conv", layer.data, name, pads=list(case.pads), strides=list(case.strides), dilations=list(case.dilations),
        group=case.groups,
    )  # fmt: skip
    for found, rounded in runs(layer, y, kernel):
        np.testing.assert_array_equal(found, convolve(rounded, weight, case))


@BOTH
@pytest.mark.parametrize("form", [(0, 1), (1, 2), (0, 15)])
def test_long_rows(kernel: str, form: tuple[int, int]) -> None:
    """Rows of one sign, longer than bytes and words of 16 bits hold, with every input at its largest."""
    layer = Layer((1, 600, 5, 5), form, 0)
    codes = np.ones((5, 600, 3, 3), np.int8)
    codes[1] = -1
    codes[2, ::2] = -1
    codes[3] = 0
    codes[4, 300:] = 0
    y = layer.net.op("Conv", layer.data, layer.net.ternary(codes, np.ones(5)), pads=[1] * 4)
    runner = Runner(compiled(layer, y, kernel))
    case = Case(1, 1, 600, 5, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), form, 0.0, 1, False, 0)
    for q in (0, form[1]):
        x = np.full((1, 600, 5, 5), (q - form[0]) * STEP, np.float32)
        np.testing.assert_array_equal(runner(x)[0], convolve(x, codes, case))


@BOTH
@pytest.mark.parametrize("rows", [16, 37])
@pytest.mark.parametrize("form", [(0, 1), (1, 2), (0, 7)])
def test_linear_layers_of_many_rows(kernel: str, rows: int, form: tuple[int, int]) -> None:
    layer = Layer((rows, 45), form, rows)
    name, weight = layer.weight((9, 45), 0.5, 2)
    for found, rounded in runs(layer, layer.net.op("Gemm", layer.data, name, transB=1), kernel):
        np.testing.assert_array_equal(found, rounded @ weight.T)


@COUNTS
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("terms", "unequal"), [(1, False), (1, True), (3, False)])
def test_linear_layers_of_few_rows(rows: int, form: tuple[int, int], terms: int, unequal: bool) -> None:
    layer = Layer((rows, 777), form, rows)
    name, weight = layer.weight((135, 777), 0.5, terms, unequal)
    for found, rounded in runs(layer, layer.net.op("Gemm", layer.data, name, transB=1), "popcount_linear"):
        np.testing.assert_array_equal(found, rounded @ weight.T)


@pytest.mark.parametrize(
    "kernel", ["narrow", *(pytest.param(k, marks=COUNTS) for k in ("popcount", "popcount_linear"))]
)
def test_number_of_threads_does_not_change_a_sum(kernel: str) -> None:
    import tvm

    linear = kernel == "popcount_linear"
    layer = Layer((2, 300) if linear else (2, 20, 17, 17), (0, 3), 4)
    name, weight = layer.weight((300, 300) if linear else (33, 20, 3, 3), 0.5)
    y = layer.net.op("Gemm", layer.data, name, transB=1) if linear else layer.net.op("Conv", layer.data, name)
    choice = {y: ScheduleConfig.of(kernel, {})}
    with (
        mock.patch("tvm_schedules.backends.cpu.compile.SHARE", 0),
        mock.patch("tvm_schedules.lowering.base.Lowering.serial", 0),
    ):
        runner = Runner(compile_model(layer.net.model(y), resolve("host"), choose=lambda *_: choice))
    assert kernel in {step.kernel for step in runner.plan.steps}
    data, rounded = layer.input()
    case = Case(2, 1, 20, 33, (17, 17), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), (0, 3), 0.5, 1, False, 4)
    expected = rounded @ weight.T if linear else convolve(rounded, weight, case)
    configure = tvm.get_global_func("runtime.config_threadpool")
    try:
        for threads in (1, 2, 4):
            configure(1, threads)
            np.testing.assert_array_equal(runner(data)[0], expected)
    finally:
        configure(1, 2)


def chosen(form: tuple[int, int], zeros: float, target: str = "host") -> tuple[str, str]:
    layer = Layer((1, 64, 8, 8), form, 1)
    name, _ = layer.weight((64, 64, 3, 3), zeros)
    (entry,) = compiled(layer, layer.net.op("Conv", layer.data, name, pads=[1] * 4), None, target).plan.layers
    return entry.kernel, entry.reason


@COUNTS
def test_counting_is_chosen_for_few_bits_and_few_zeros() -> None:
    kinds = {
        (form[1], zeros): chosen(form, zeros)[0] for form in [(0, 1), (1, 2), (0, 15)] for zeros in (0.4, 0.6, 0.95)
    }
    assert [kinds[1, zeros] for zeros in (0.4, 0.6, 0.95)] == ["popcount", "popcount", "narrow"]
    assert [kinds[2, zeros] for zeros in (0.4, 0.6, 0.95)] == ["popcount", "popcount", "narrow"]
    assert "popcount" not in {kinds[15, zeros] for zeros in (0.4, 0.6, 0.95)}
    reason = chosen((1, 2), 0.6)[1]
    assert "words of 8 weights" in reason
    assert "against" in reason


def test_arm_counts_too() -> None:
    assert chosen((0, 1), 0.5, "a72")[0] == "popcount"
    assert chosen((0, 1), 0.9, "a72")[0] == "narrow"


@COUNTS
def test_words_and_steps_without_weights_are_left_out() -> None:
    codes = np.zeros((64, 64, 3, 3), np.int8)
    codes[:, 8:16] = 1
    layer = Layer((1, 64, 6, 6), (0, 1), 0)
    y = layer.net.op("Conv", layer.data, layer.net.ternary(codes, np.ones(64)), pads=[1] * 4)
    (entry,) = compiled(layer, y, "popcount").plan.layers
    assert entry.reason.startswith(f"{64 * 9} of {64 * 9 * 8} words")
    layer = Layer((1, 512), (0, 1), 0)
    flat = np.zeros((64, 512), np.int8)
    flat[:, :64] = 1
    y = layer.net.op("Gemm", layer.data, layer.net.ternary(flat, np.ones(64)), transB=1)
    (entry,) = compiled(layer, y, "popcount_linear").plan.layers
    assert "8 of 64 steps" in entry.reason


def test_trained_levels_reach_the_kernels() -> None:
    """Rounding up, after ReLU and a residual addition, becomes part of the layer before."""
    net = Net((1, 16, 9, 9))
    first = net.op(
        "Conv", net.quantize("input_0", 0.05, 128), net.weight((16, 16, 3, 3), 0.5), net.bias(16), pads=[1] * 4
    )
    x = net.op("Relu", first)
    half, low, high = (net.const(np.float32(v)) for v in (0.1, 0.0, 0.6))
    bits = net.quantize(net.op("Clip", net.op("Add", x, half), low, high), 0.2)
    second = net.op("Conv", bits, net.weight((16, 16, 3, 3), 0.5), net.bias(16), pads=[1] * 4)
    y = net.op("Relu", net.op("Add", second, x))
    again = net.quantize(net.op("Clip", net.op("Add", y, half), low, high), 0.2)
    model = net.model(net.op("Conv", again, net.weight((8, 16, 1, 1), 0.8)))
    runner = Runner(model)
    assert not {"fallback"} & {step.kernel for step in runner.plan.steps}
    assert sum(layer.kernel in ("narrow", "popcount") for layer in runner.plan.layers) == 2
    given = np.random.default_rng(0).normal(size=(1, 16, 9, 9)).astype(np.float32)
    found, expected = runner(given)[0], run_onnx(model, given)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
