"""Every kernel against onnxruntime, over random shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import compilations
from tests.tvm_schedules.guarded import guarded
from tests.tvm_schedules.nets import Net, Runner, compared, run_onnx

STEP = 0.05


@dataclass(frozen=True)
class Case:
    """One layer with its surroundings."""

    batch: int
    groups: int
    fan: int
    rows: int
    dims: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    zero: int | None  # zero point of 8-bit activations, None: float
    zeros: float | None  # share of zeros, None: dense
    terms: int
    after: str
    residual: str
    out_zero: int | None
    seed: int
    unequal: bool = False  # whether the levels of additions and subtractions differ


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    most = {1: 70, 2: 18, 3: 6}[rank]
    dims = tuple(draw(st.integers(1, most)) for _ in range(rank))
    kernel = tuple(draw(st.integers(1, 4 if rank < 3 else 3)) for _ in range(rank))
    strides = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    dilations = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    pads = []
    for side in range(2):
        for n, k, d in zip(dims, kernel, dilations, strict=True):
            short = max(0, d * (k - 1) + 1 - n)
            pads.append(draw(st.integers(-(-short // 2) if side == 0 else short - short // 2, short + d * k)))
    return Case(
        batch=draw(st.sampled_from([1, 1, 2])),
        groups=draw(st.sampled_from([1, 1, 2, 3])),
        fan=draw(st.integers(1, 5)),
        rows=draw(st.integers(1, 9)),
        dims=dims,
        kernel=kernel,
        strides=strides,
        dilations=dilations,
        pads=tuple(pads),
        zero=draw(st.sampled_from([None, 0, 0, 128, 7])),
        zeros=draw(st.sampled_from([0.0, 0.5, 0.9, 1.0, None])),
        terms=draw(st.sampled_from([1, 1, 1, 2, 3])),
        after=draw(st.sampled_from(["", "Relu", "Clip"])),
        residual=draw(st.sampled_from(["", "", "float", "quantized"])),
        out_zero=draw(st.sampled_from([None, 0, 100])),
        seed=draw(st.integers(0, 1 << 16)),
        unequal=draw(st.booleans()),
    )


def build(case: Case) -> tuple[Net, str, tuple[int, ...]]:
    channels, rows = case.groups * case.fan, case.groups * case.rows
    shape = (case.batch, channels, *case.dims)
    spatial = [
        (n + lo + hi - d * (k - 1) - 1) // s + 1
        for n, lo, hi, d, k, s in zip(
            case.dims, case.pads, case.pads[len(case.dims) :], case.dilations, case.kernel, case.strides, strict=False
        )
    ]
    out = (case.batch, rows, *spatial)
    net = Net(shape, out, seed=case.seed)
    x = "input_0" if case.zero is None else net.quantize("input_0", STEP, case.zero)
    weight = net.weight((rows, case.fan, *case.kernel), case.zeros, case.terms, case.zero is not None, 1, case.unequal)
    y = net.op(
        "Conv", x, weight, net.bias(rows), pads=list(case.pads), strides=list(case.strides),
        dilations=list(case.dilations), group=case.groups
    )  # fmt: skip
    if case.residual:
        y = net.op("Add", y, "input_1" if case.residual == "float" else net.quantize("input_1", 0.03, 90))
    if case.after == "Relu":
        y = net.op("Relu", y)
    elif case.after == "Clip":
        y = net.op("Clip", y, net.const(np.float32(-0.4)), net.const(np.float32(0.9)))
    if case.out_zero is not None:
        y = net.quantize(y, STEP, case.out_zero)
    return net, y, out


def check(model: object, inputs: list[np.ndarray], step: float | None) -> None:
    for want, have in compared(model, Runner(model), inputs):
        assert want.shape == have.shape
        if step is None:
            np.testing.assert_allclose(have, want, rtol=2e-4, atol=2e-4)
        else:
            steps = np.abs(have - want) / step
            assert steps.max(initial=0) < 1.01, "more than one quantization step away"
            assert (steps > 0.5).mean() < 0.02, "too many values are rounded otherwise"


@compilations(36)
@given(cases())
def test_convolution_agrees_with_onnxruntime(case: Case) -> None:
    net, y, out = build(case)
    rng = np.random.default_rng(case.seed)
    inputs = [rng.normal(size=s).astype(np.float32) for s in ((case.batch, case.groups * case.fan, *case.dims), out)]
    check(net.model(y), inputs, STEP if case.out_zero is not None else None)


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("dims", [(4, 5, 6), (5, 4, 7), (1, 1, 1), (2, 1, 33), (1, 9, 70)])
def test_phases_of_volumes(dims: tuple[int, ...], floats: bool) -> None:
    net = Net((2, 3, *dims))
    x = "input_0" if floats else net.quantize("input_0", STEP, 7)
    y = net.op("Conv", x, net.weight((6, 3, 3, 3, 3), 0.4), pads=[1] * 6, strides=[2] * 3)
    check(net.model(y), [np.random.default_rng(0).normal(size=(2, 3, *dims)).astype(np.float32)], None)


@pytest.mark.parametrize("unequal", [False, True])
def test_rows_longer_than_sixteen_bits_hold(unequal: bool) -> None:
    net = Net((1, 300, 5, 5))
    codes = np.ones((4, 300, 3, 3), np.int8)
    codes[1] = -1
    codes[2, ::2] = -1
    codes[3] = 0
    weight = net.ternary(np.maximum(codes, 0) if unequal else codes, np.full(4, 1e-3))
    if unequal:
        weight = net.op("Add", weight, net.ternary(np.minimum(codes, 0), np.full(4, 7e-4)))
    y = net.op("Conv", net.quantize("input_0", 1.0, 0), weight, pads=[1] * 4)
    x = np.full((1, 300, 5, 5), 255, np.float32)
    check(net.model(y), [x], None)


@pytest.mark.parametrize("shape", [(1, 3, 5, 130), (2, 2, 7, 65), (1, 1, 1, 1), (1, 2, 9, 3)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("scale", "zero"), [(0.0373, 0), (1.7e-7, 40), (1.9999999, 255), (3.1e30, 128)])
def test_inputs_are_rounded_as_division_rounds_them(
    shape: tuple[int, ...], stride: int, scale: float, zero: int
) -> None:
    """Quotients next to ties, where a product with the reciprocal would go the other way, and what overflows."""
    rng, step = np.random.default_rng(7), np.float32(scale)
    with np.errstate(over="ignore"):
        x = (rng.integers(-300, 600, shape) + 0.5).astype(np.float32) * step
    x = np.nextafter(x, x * rng.choice([0, 1, 2], shape).astype(np.float32))
    some = x.ravel()[:: max(1, x.size // 5)]
    some[:] = np.resize(np.array([np.inf, -np.inf, 3e38, -3e38, 0], np.float32), some.size)
    net = Net(shape)
    weight = net.ternary(np.eye(shape[1], dtype=np.int8)[:, :, None, None], np.ones(shape[1]))
    y = net.op("Conv", net.quantize("input_0", step, zero), weight, strides=[stride] * 2)
    with np.errstate(over="ignore"):
        want = np.clip(np.rint(x / step) + zero, 0, 255)[:, :, ::stride, ::stride]
    have = np.rint(Runner(net.model(y))(x)[0] / step) + zero
    np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("zero", [None, 0, 40])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "AveragePool-pads"])
@pytest.mark.parametrize("shape", [(1, 3, 9, 7), (2, 5, 1, 1), (1, 2, 33)])
def test_pooling(zero: int | None, op: str, shape: tuple[int, ...]) -> None:
    net, rank = Net(shape), len(shape) - 2
    x = "input_0" if zero is None else net.quantize("input_0", STEP, zero)
    extra = {"count_include_pad": 1} if op.endswith("pads") else {}
    y = net.op(op.split("-")[0], x, kernel_shape=[3] * rank, strides=[2] * rank, pads=[1] * (2 * rank), **extra)
    # An average on the input's own grid would be full of ties, which float rounding decides either way.
    step = STEP if op == "MaxPool" else 0.0373
    y = net.quantize(y, step, zero) if zero is not None else y
    x_value = np.random.default_rng(1).normal(size=shape).astype(np.float32) - 0.5
    check(net.model(y), [x_value], None if zero is None else step)


@pytest.mark.parametrize("ceil", [0, 1])
def test_pooling_ceil_mode(ceil: int) -> None:
    net = Net((1, 2, 6, 8))
    y = net.op("MaxPool", "input_0", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=ceil)
    check(net.model(y), [np.random.default_rng(2).normal(size=(1, 2, 6, 8)).astype(np.float32)], None)


@pytest.mark.parametrize("rows", [1, 3, 16, 37])
@pytest.mark.parametrize("zero", [None, 0, 128])
@pytest.mark.parametrize("zeros", [0.6, 1.0, None])
@pytest.mark.parametrize("out", [None, 20])
def test_linear(rows: int, zero: int | None, zeros: float | None, out: int | None) -> None:
    net = Net((rows, 300))
    x = "input_0" if zero is None else net.quantize("input_0", STEP, zero)
    y = net.op("Gemm", x, net.weight((45, 300), zeros, int8=zero is not None), net.bias(45), transB=1)
    y = net.quantize(net.op("Relu", y), STEP, out) if out is not None else y
    check(
        net.model(y),
        [np.random.default_rng(3).normal(size=(rows, 300)).astype(np.float32)],
        None if out is None else STEP,
    )


@pytest.mark.parametrize("outputs", [1, 8, 63, 64, 65, 130, 200])
@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("int8", [False, True])
def test_linear_stays_inside_its_memory(outputs: int, rows: int, int8: bool) -> None:
    """The last tile of output channels may have vectors without any."""
    net = Net((rows, 37))
    x = net.quantize("input_0", STEP, 9) if int8 else "input_0"
    model = net.model(net.op("Gemm", x, net.weight((outputs, 37), None, int8=int8), net.bias(outputs), transB=1))
    data = np.random.default_rng(5).normal(size=(rows, 37)).astype(np.float32)
    np.testing.assert_allclose(guarded(model, data)[0], run_onnx(model, data)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 20, 48), (1, 3, 48)])
def test_linear_of_tokens(shape: tuple[int, ...]) -> None:
    net = Net(shape)
    weight = net.op("Transpose", net.weight((33, 48), 0.7, terms=2), perm=[1, 0])
    y = net.op("Relu", net.op("Add", net.op("MatMul", net.quantize("input_0", STEP, 128), weight), net.bias(33)))
    check(net.model(y), [np.random.default_rng(4).normal(size=shape).astype(np.float32)], None)


def test_steps_share_code() -> None:
    net = Net((1, 8, 9, 9))
    x = net.quantize("input_0")
    codes = net.codes((8, 8, 3, 3), 0.85)
    for _ in range(3):
        x = net.quantize(net.op("Relu", net.op("Conv", x, net.ternary(codes, np.full(8, 0.05)), pads=[1] * 4)))
    runner = Runner(net.model(x))
    assert sum(s.kernel == "sparse" for s in runner.plan.steps) == 3
