"""The kernel over panels against onnxruntime, forced on layers that it would leave to others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.properties import compilations
from tests.tvm_schedules.backends.cpu.kernels.test_kernels import STEP, Case, build, cases
from tests.tvm_schedules.backends.cpu.kernels.test_low_bit import Case as Exact
from tests.tvm_schedules.backends.cpu.kernels.test_low_bit import Layer, convolve
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Net, Runner, compared
from tvm_schedules.backends.cpu.kernels import sparse_conv_panel as panel
from tvm_schedules.backends.cpu.kernels.common import panel_copies
from tvm_schedules.backends.cpu.kernels.common.panel_copies import RowInterleaving
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.targets.registry import resolve

pytestmark = pytest.mark.skipif(resolve("host").vector_bytes != 64, reason="panels are for vectors of a cache line")


def forced(model: object, **numbers: int) -> Runner:
    def choose(graph: object, target: object) -> dict[str, ScheduleConfig]:
        nodes = graph.nodes  # type: ignore[attr-defined]
        return {node.name: ScheduleConfig.of("panel", numbers) for node in nodes if node.op == "Conv"}

    return Runner(compile_model(model, resolve("host"), None, choose))


def agree(model: object, inputs: list[np.ndarray], step: float | None, **numbers: int) -> None:
    runner = forced(model, **numbers)
    assert "panel" in {entry.kernel for entry in runner.plan.steps}
    for want, have in compared(model, runner, inputs):
        if step is None:
            np.testing.assert_allclose(have, want, rtol=2e-4, atol=2e-4)
        else:
            assert np.abs(have - want).max(initial=0) < 1.01 * step


def agree_on(case: Case, **numbers: int) -> None:
    net, y, out = build(case)
    rng = np.random.default_rng(case.seed)
    inputs = [rng.normal(size=s).astype(np.float32) for s in ((case.batch, case.fan, *case.dims), out)]
    # Small layers, too, have their jobs dealt out as threads would share them.
    with mock.patch("tvm_schedules.lowering.base.Lowering.serial", 0):
        agree(net.model(y), inputs, STEP if case.out_zero is not None else None, **numbers)


@compilations(14)
@given(cases(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_random_convolutions(case: Case, block: int, channels: int, chunks: int) -> None:
    assume(max(case.dims) > 1)  # an image of one pixel is a linear layer
    case = replace(
        case, groups=1, terms=1, unequal=False, zero=case.zero or 0, zeros=case.zeros if case.zeros is not None else 0.5
    )
    agree_on(case, block=block, channels=channels, chunks=chunks)


def width_of(case: Case) -> int:
    """Pixels of a row of the output."""
    last = len(case.dims) - 1
    lo, hi = case.pads[last], case.pads[-1]
    return (case.dims[last] + lo + hi - case.dilations[last] * (case.kernel[last] - 1) - 1) // case.strides[last] + 1


@pytest.mark.parametrize("height", [5, 7, 13, 14])
@pytest.mark.parametrize("width", [7, 9, 11])
def test_the_last_block_of_floats_does_not_reach_the_next_plane(height: int, width: int) -> None:
    """Padding below alone, as causal convolutions have it: planes end with their last pixel."""
    window = {"kernel": (3, 1), "strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 2, 0)}
    shape = {"batch": 1, "groups": 1, "fan": 2, "rows": 4, "dims": (height, width)}
    rest = {"zero": None, "zeros": 0.3, "terms": 1, "after": "", "residual": "", "out_zero": None, "seed": 0}
    agree_on(Case(**shape, **window, **rest))


@compilations(25)
@given(cases(), st.integers(1, 16), st.integers(1, 4), st.integers(1, 3), st.sampled_from([1, 2, 4]))
def test_random_images_of_floats(case: Case, block: int, channels: int, chunks: int, unroll: int) -> None:
    assume(len(case.dims) < 3 and max(case.kernel) > 1)
    case = replace(
        case, groups=1, terms=1, unequal=False, zero=None, zeros=case.zeros if case.zeros is not None else 0.5
    )
    block = max(block, -(-width_of(case) // 16))
    agree_on(case, block=block, channels=channels, chunks=chunks, unroll=unroll)


CAUSAL = Case(1, 1, 2, 4, (7, 9), (3, 1), (1, 1), (1, 1), (0, 0, 2, 0), None, 0.3, 1, "", "", None, 0)


@pytest.mark.parametrize(
    ("change", "numbers"),
    [
        ({}, {}),
        ({"batch": 2, "residual": "float", "after": "Relu"}, {}),
        ({"out_zero": 100, "residual": "quantized"}, {}),
        ({"dims": (7, 8), "kernel": (3, 3), "pads": (1, 1, 1, 1)}, {}),
        ({"dims": (7, 9)}, {"block": 2}),
        ({"dims": (128, 3), "residual": "float"}, {"block": 1}),
        ({"dims": (43, 2), "kernel": (2, 2), "pads": (0, 0, 1, 1), "out_zero": 100}, {"block": 1}),
        ({"dims": (703, 1), "batch": 2}, {"block": 9}),
        ({"dims": (703, 1), "residual": "float", "out_zero": 100}, {"block": 9}),
    ],
)
def test_the_last_block_ends_before_the_next_plane(change: dict[str, Any], numbers: dict[str, int]) -> None:
    """Images that nearly fill their planes, whose rows would make blocks that are no whole vectors."""
    agree_on(replace(CAUSAL, **change), **numbers)


@pytest.mark.parametrize("size", [7, 9, 14])
@pytest.mark.parametrize("channels", [3, 14, 1000])
def test_sums_too_long_for_sixteen_bits_go_on_in_float(channels: int, size: int) -> None:
    net = Net((1, 60, size, size))
    codes = np.ones((4, 60, 3, 3), np.int8)
    codes[1] = -1
    codes[2, ::2] = -1
    codes[3] = 0
    y = net.op("Conv", net.quantize("input_0", 1.0, 0), net.ternary(codes, np.full(4, 1e-3)), pads=[1] * 4)
    agree(net.model(y), [np.full((1, 60, size, size), 255, np.float32)], None, channels=channels)


@pytest.mark.parametrize(("top", "once"), [(127, 2), (85, 2), (63, 4), (31, 8), (7, 8)])
@pytest.mark.parametrize("zeros", [0.0, 0.7])
def test_activations_of_few_bits_are_summed_in_bytes_first(top: int, once: int, zeros: float) -> None:
    case = Exact(1, 1, 40, 10, (9, 30), (3, 3), (1, 1), (1, 1), (1, 0, 1, 2), (3, top), zeros, 1, False, top)
    layer = Layer((1, 40, 9, 30), case.form, case.seed)
    name, weight = layer.weight((10, 40, 3, 3), zeros)
    y = layer.net.op("Conv", layer.data, name, pads=list(case.pads))
    with mock.patch.object(panel, "Spec", wraps=panel.Spec) as spec:
        runner = forced(layer.net.model(y), unroll=8)
    assert spec.call_args.kwargs["once"] == once
    data, rounded = layer.input()
    np.testing.assert_array_equal(runner(data)[0], convolve(rounded, weight, case))


@pytest.mark.parametrize("numbers", [{"chunks": 4}, {"chunks": 1, "block": 3}, {"chunks": 1, "block": 1}])
@pytest.mark.parametrize(("floats", "size", "zeros"), [(False, 30, 0.7), (False, 28, 0.85), (True, 30, 0.7)])
def test_threads_do_not_change_the_result(numbers: dict[str, int], floats: bool, size: int, zeros: float) -> None:
    net = Net((1, 64, size, size), seed=3)
    numbers = {**numbers, "block": 12} if floats and "block" in numbers else numbers
    x = "input_0" if floats else net.quantize("input_0", STEP, 0)
    y = net.quantize(net.op("Conv", x, net.weight((47, 64, 3, 3), zeros, 1), pads=[1] * 4), STEP, 128)
    data = np.random.default_rng(0).normal(size=(1, 64, size, size)).astype(np.float32)
    found = []
    for share in (0, 1 << 60):
        with mock.patch("tvm_schedules.backends.cpu.compile.SHARE", share):
            found += forced(net.model(y), **numbers)(data)
    assert np.array_equal(found[0], found[1])


@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((2, 50, 7, 7), (3, 3), {"pads": [1] * 4}),
        ((1, 33, 14, 13), (3, 3), {"pads": [1] * 4, "strides": [2, 2]}),
        ((1, 20, 5, 11, 7), (2, 3, 3), {"pads": [0, 2, 1, 1, 0, 1]}),
        ((1, 20, 30, 6), (1, 5), {"pads": [0, 2, 0, 2]}),
    ],
)
def test_rows_of_seven_pixels(shape: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, list[int]]) -> None:
    net = Net(shape, seed=4)
    x = net.quantize("input_0", STEP, 250)
    y = net.op("Conv", x, net.weight((48, shape[1], *kernel), 0.3, 1), **options)
    with mock.patch.object(panel, "Spec", wraps=panel.Spec) as spec:
        agree(net.model(y), [np.random.default_rng(1).normal(size=shape).astype(np.float32)], None, channels=7)
    assert spec.call_args.kwargs["seven_of_eight"]


def test_taps_a_line_apart_share_their_pixels() -> None:
    window = Window((1, 3, 3), pads=((0, 0), (1, 1), (1, 1)))
    wide = Halo(1, 4, (1, 30, 60), "uint8", (30, 64), (0, 1, 1), (0, 1, 1))
    held = panel_copies.copies(window, wide, 128)
    assert (held.channel, len(set(held.places))) == (3 * 256, 9)
    assert panel_copies.copies(window, replace(wide, pitch=(30, 61)), 128).channel == 9 * 128


WINDOWS = {
    "3x3": Window((1, 3, 3), pads=((0, 0), (1, 1), (1, 1))),
    "5x2, dilated": Window((1, 5, 2), pads=((0, 0), (1, 2), (0, 1)), dilations=(1, 2, 3)),
    "3x3, strided": Window((1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1))),
}


@pytest.mark.parametrize("window", WINDOWS.values(), ids=list(WINDOWS))
@pytest.mark.parametrize(
    ("rows", "width", "pitch", "dtype"),
    [
        (14, 14, 16, "uint8"),
        (9, 12, 16, "uint8"),
        (16, 13, 16, "uint8"),
        (7, 20, 32, "uint8"),
        (28, 28, 32, "uint8"),
        (31, 25, 32, "uint8"),
        (56, 56, 64, "uint8"),
        (13, 50, 64, "uint8"),
        (9, 57, 64, "uint8"),
        (8, 8, 9, "float32"),
        (7, 7, 9, "float32"),
        (9, 3, 8, "float32"),
        (16, 16, 17, "float32"),
        (14, 14, 20, "float32"),
        (9, 40, 43, "float32"),
        (9, 33, 33, "float32"),
    ],
)
def test_a_tap_finds_the_dealt_rows_in_whole_vectors(
    window: Window, rows: int, width: int, pitch: int, dtype: str
) -> None:
    dims = (1, rows * window.strides[1], width * window.strides[2])
    lo, hi = window.halo(dims)
    x = Halo(1, 1, dims, dtype, (rows + max(lo[1], hi[1]), pitch), lo, hi, window.strides)
    flat, lanes = np.arange(x.elements + 1024), 64 // x.itemsize
    _, height, width = window.output(dims)
    interleaving: RowInterleaving | None
    if dtype == "uint8":
        vectors = -(-height * pitch // 64)
        interleaving = panel_copies.interleaving_of_bytes(window, x, vectors, lambda usual: usual)
        assert (interleaving is not None) == (vectors > 1 and pitch < 64 if vectors <= 4 else width <= pitch // 8 * 7)
        assert vectors <= 4 or interleaving is None or interleaving.rows == pitch // 16
    else:
        interleaving = panel_copies.interleaving_of_floats(window, x, 8)
    if interleaving is None:
        return
    held = panel_copies.interleaved_copies(window, x, interleaving)
    order = list(held.order) or list(range(lanes))
    copied = [np.concatenate([flat[at : at + lanes // len(sources)] for at in sources]) for sources, _ in held.vectors]
    holds = np.concatenate([vector[order] for vector in copied])
    assert bool(held.order) == (dtype == "uint8" and width <= pitch // 8 * 7)
    count = min(height * pitch, interleaving.step(lanes))
    back = np.array([interleaving.source(pixel, lanes) for pixel in range(count)])
    inside = np.arange(count) % pitch < width
    for (phase, shift), place in zip(window.taps(), held.places, strict=True):
        assert place % lanes == 0
        start = x.offset(0, phase, shift)
        read = holds[place : place + interleaving.rows * interleaving.wide * lanes][back]
        np.testing.assert_array_equal(read[inside], flat[start : start + count][inside])
    if held.order:
        assert not (back[inside] % 8 == 7).any()


def test_what_is_not_dealt_out() -> None:
    window = WINDOWS["3x3"]
    small = Halo(1, 1, (1, 4, 14), "uint8", (5, 16), (0, 1, 1), (0, 1, 1))
    assert panel_copies.interleaving_of_bytes(window, small, 1, int) is None  # one vector holds all
    assert panel_copies.interleaving_of_bytes(window, replace(small, pitch=(5, 15)), 2, int) is None
    assert panel_copies.interleaving_of_bytes(window, replace(small, dims=(2, 4, 14)), 2, int) is None
    assert panel_copies.interleaving_of_floats(window, Halo(1, 1, (1, 2, 300), "float32", (3, 301)), 16) is None
    assert panel_copies.interleaving_of_floats(window, Halo(1, 1, (2, 2, 30), "float32", (3, 31)), 16) is None


@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((1, 70, 14, 14), (3, 3), {"pads": [1] * 4}),
        ((2, 9, 14, 14), (3, 3), {"pads": [1] * 4}),
        ((1, 33, 28, 28), (3, 3), {"pads": [1] * 4, "strides": [2, 2]}),
        ((1, 20, 12, 13), (5, 3), {"pads": [2, 1, 2, 1]}),
        ((1, 20, 13, 12), (3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
        ((1, 300, 9, 13), (3, 3), {"pads": [1] * 4}),
        ((1, 20, 13, 15), (3, 2), {"pads": [1, 0, 1, 1]}),
    ],
)
def test_rows_dealt_out_to_vectors(
    shape: tuple[int, ...], kernel: tuple[int, int], options: dict[str, list[int]], wide: int
) -> None:
    rng = np.random.default_rng(0)
    net = Net(shape, seed=2)
    x = net.quantize("input_0", STEP, 3)
    y = net.op("Relu", net.op("Conv", x, net.weight((48, shape[1], *kernel), 0.6, 1), **options))
    y = net.quantize(y, STEP, 5)
    with mock.patch.object(panel, "Spec", wraps=panel.Spec) as spec:
        forced(net.model(y), dealt=wide)
    interleaving = spec.call_args.kwargs["interleaving"]
    assert (interleaving is not None) == bool(wide)
    assert interleaving is None or (interleaving.wide, interleaving.part, interleaving.pitch) == (1, 16, 16)
    agree(net.model(y), [rng.normal(size=shape).astype(np.float32)], STEP, dealt=wide, channels=7)


@pytest.mark.parametrize("block", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((1, 40, 28, 28), (3, 3), {"pads": [1] * 4}),
        ((2, 33, 27, 26), (3, 5), {"pads": [1, 4, 1, 4], "dilations": [1, 2]}),
        ((1, 24, 56, 56), (3, 3), {"pads": [1] * 4}),
        ((1, 24, 51, 53), (3, 5), {"pads": [1, 4, 1, 4], "dilations": [1, 2]}),
        ((1, 20, 56, 56), (3, 3), {"pads": [1] * 4, "strides": [2, 2]}),
        ((1, 20, 29, 28), (5, 3), {"pads": [4, 2, 4, 2], "dilations": [2, 2]}),
    ],
)
def test_rows_of_large_images_interleaved_over_vectors(
    shape: tuple[int, ...], kernel: tuple[int, int], options: dict[str, list[int]], block: int
) -> None:
    """Blocks of any number of rows, whole images or not; the pitch is widened, for few taps alone."""
    rng = np.random.default_rng(0)
    models = []
    for zeros in (0.85, 0.7):
        net = Net(shape, seed=2)
        x = net.quantize("input_0", STEP, 3)
        y = net.op("Relu", net.op("Conv", x, net.weight((48, shape[1], *kernel), zeros, 1), **options))
        models.append(net.model(net.quantize(y, STEP, 5)))
    with mock.patch.object(panel, "Spec", wraps=panel.Spec) as spec:
        forced(models[0], block=block)
    interleaving = spec.call_args.kwargs["interleaving"]
    assert interleaving is not None
    assert (interleaving.rows, interleaving.wide) == (block, 1)
    assert spec.call_args.kwargs["seven_of_eight"]
    if shape == (1, 40, 28, 28):  # blocks of two rows a vector: 14, 7, 5, 4, 2
        assert spec.call_args.kwargs["halves"] == (block in (2, 3))
    with mock.patch.object(panel, "Spec", wraps=panel.Spec) as spec:
        forced(models[1])
    assert spec.call_args.kwargs["interleaving"] is None
    agree(models[0], [rng.normal(size=shape).astype(np.float32)], STEP, block=block, channels=7)


def test_a_layer_that_does_not_fit_the_cache_gets_panels() -> None:
    net = Net((1, 256, 26, 26), seed=1)
    x = net.quantize("input_0", STEP, 0)
    model = net.model(net.op("Conv", x, net.weight((128, 256, 3, 3), 0.75, 1), pads=[1] * 4))
    assert "panel" in {step.kernel for step in Runner(model).plan.steps}
    with mock.patch.object(panel, "L1_SHARE", 32):
        assert "sparse" in {step.kernel for step in Runner(model).plan.steps}
