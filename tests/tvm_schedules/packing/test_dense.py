"""Packed dense weights, read as kernels read them: what they sum is the product with the weights."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.packing import (
    dense_conv,
    dense_conv_dot,
    dense_conv_panel,
    dense_conv_winograd,
    depthwise_conv_dot,
    linear,
    linear_dot,
    linear_pairs,
    linear_widened,
    pool,
    recurrent,
)

WINDOW = Window((1, 3, 2), (1, 2, 1), ((0, 0), (1, 0), (1, 1)), (1, 1, 2))
DIMS = (1, 5, 6)


def image_of(channels: int, groups: int = 1, seed: int = 0) -> tuple[Halo, np.ndarray, np.ndarray]:
    """A layout, its memory, and what the first output pixel sees ``[channels, taps]``."""
    x = Halo(1, channels, DIMS, "float32", (8, 12), (0, 1, 1), (0, 1, 1), WINDOW.strides)
    image = np.random.default_rng(seed).integers(-9, 10, (1, channels, *DIMS)).astype(np.float32)
    seen = np.pad(image[0], ((0, 0), *WINDOW.pads))[:, :1, :3, :3:2].reshape(channels, -1)
    return x, x.pack(image), seen


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("tile", [1, 2, 4])
@pytest.mark.parametrize("how", ["dot", "floats", "pairs"])
@pytest.mark.parametrize("fan", [2, 3])
@pytest.mark.parametrize("kernel", [(1, 3, 2), (1, 3, 1)])
def test_convolutions_by_blocks(groups: int, tile: int, how: str, fan: int, kernel: tuple[int, int, int]) -> None:
    rows, count = 6, int(np.prod(kernel))
    x, memory, seen = image_of(fan * groups)
    seen = seen.reshape(len(seen), *WINDOW.kernel)[..., : kernel[2]]
    values = np.random.default_rng(1).integers(-127, 128, (rows, fan, *kernel)).astype(np.int8)
    window = Window(kernel, WINDOW.strides, WINDOW.pads, WINDOW.dilations, groups)
    want = np.einsum("gok,gk->go", values.reshape(groups, rows // groups, -1), seen.reshape(groups, -1))
    if how == "dot":
        found = dense_conv_dot.pack(values, window, x, tile)
        packed = found["values"].transpose(0, 1, 2, 4, 3).reshape(groups, -(-rows // groups // tile), -1, tile)
        assert found["values"].shape[2:] == (-(-fan * count // 4), tile, 4)
        assert len(found["offsets"]) == -(-fan * count // 4) * 4
    elif how == "pairs":
        found = dense_conv.pack(values, window, x, tile, "int16", pairs=True)
        assert found["values"].dtype == np.int32
        assert found["values"].shape == (groups, -(-rows // groups // tile), -(-fan * count // 2), tile)
        twos = found["values"].view(np.int16).reshape(*found["values"].shape, 2)
        packed = twos.transpose(0, 1, 2, 4, 3).reshape(groups, -(-rows // groups // tile), -1, tile)
    else:
        found = dense_conv.pack(values, window, x, tile, "float32")
        packed = found["values"]
        assert packed.dtype == np.float32
        assert len(found["offsets"]) == fan * count
    assert found["offsets"].dtype == np.int32
    assert found["offsets"].max() < x.plane * x.phases * fan
    apart = fan * x.phases * x.plane
    for group in range(groups):
        inputs = memory[found["offsets"] + group * apart]
        sums = (packed[group].astype(np.float64) * inputs[None, :, None]).sum(1).ravel()
        np.testing.assert_array_equal(sums[: rows // groups], want[group])
        assert not sums[rows // groups :].any()


@pytest.mark.parametrize(("groups", "fan", "rows"), [(1, 3, 6), (2, 9, 20), (1, 8, 8)])
@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("shared", [False, True])
def test_convolutions_over_a_panel(groups: int, fan: int, rows: int, size: int, shared: bool) -> None:
    x, memory, seen = image_of(fan * groups)
    values = np.random.default_rng(1).integers(-127, 128, (rows, fan, *WINDOW.kernel)).astype(np.int8)
    window = Window(WINDOW.kernel, WINDOW.strides, WINDOW.pads, WINDOW.dilations, groups)
    panel, length = dense_conv_panel.Panel(x, window, size, shared), 32
    found = dense_conv_panel.pack(values, panel, length, 8)
    assert len(found["streams"]) == (-(-fan // size) * 2 if shared else -(-fan * 6 // size))
    per_group, apart = rows // groups, fan * x.phases * x.plane
    want = np.einsum("gok,gk->go", values.reshape(groups, per_group, -1), seen.reshape(groups, -1))
    for group in range(groups):
        held = memory[found["streams"][:, None] + group * apart + np.arange(length)[:, None]].ravel()
        sums, laid = np.zeros(-(-per_group // 4) * 4), found["values"][group]
        for first in range(0, len(sums), 8):
            tile, at = min(8, len(sums) - first), iter(laid[first * len(panel.members) * size :].reshape(-1, size))
            for begin, (_, _, taps) in zip(found["steps"], panel.steps, strict=True):
                for tap in range(len(taps)):
                    pixel = held[begin + tap * size :][:size]
                    sums[first : first + tile] += [float(pixel @ next(at)) for _ in range(tile)]
        np.testing.assert_array_equal(sums[:per_group], want[group])
        assert not sums[per_group:].any()


def test_neighboring_taps_are_one_step() -> None:
    x = Halo(1, 64, (1, 9, 9), "uint8", (11, 10), (0, 1, 1), (0, 1, 1))
    window = Window((1, 3, 3), pads=((0, 0), (1, 1), (1, 1)))
    panel = dense_conv_panel.Panel.best(x, window, 4, 64)
    assert (panel.shared, panel.widths, len(panel.streams), panel.reach) == (True, ((3, 48),), 16, 22)
    few = dense_conv_panel.Panel.best(Halo(1, 3, (1, 9, 9), "uint8", (11, 10), (0, 1, 1), (0, 1, 1)), window, 4, 16)
    assert (few.shared, few.widths, few.uniform, few.reach) == (False, ((1, 7),), True, 0)
    # Seven neighbors are a step of five and one of two, wide ones first; the second stream's are behind the first's.
    row = dense_conv_panel.Panel(Halo(1, 8, (1, 9, 9), "uint8", (9, 9)), Window((1, 1, 7)), 4, True)
    assert (row.widths, row.reach, row.uniform) == (((5, 2), (2, 2)), 6, False)
    assert [(stream, shift) for stream, shift, _ in row.steps] == [(0, 0), (1, 0), (0, 5), (1, 5)]


def test_depthwise_runs_are_neighbors() -> None:
    window = Window((1, 2, 7), (1, 1, 1), ((0, 0), (0, 1), (3, 3)))
    x = Halo(1, 3, DIMS, "uint8", (7, 12), (0, 0, 3), (0, 1, 3))
    runs = depthwise_conv_dot.tap_runs(window, x)
    assert [indices for _, indices in runs] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9, 10], [11, 12, 13]]
    image = np.random.default_rng(0).integers(0, 256, (1, 3, *DIMS)).astype(np.uint8)
    memory = x.pack(image)
    values = np.random.default_rng(1).integers(-127, 128, (3, 1, *window.kernel)).astype(np.int8)
    packed = depthwise_conv_dot.pack(values, window, x)["values"]
    assert packed.shape == (3, 4, 4)
    seen = np.pad(image[0], ((0, 0), *window.pads)).astype(np.int64)[:, 0, :2, :7]
    for channel in range(3):
        total = 0
        for (offset, indices), weights in zip(runs, packed[channel].astype(np.int64), strict=True):
            at = channel * x.plane + offset
            total += int((memory[at : at + len(indices)] * weights[: len(indices)]).sum())
            assert not weights[len(indices) :].any()
        assert total == int((values[channel, 0, 0] * seen[channel]).sum())


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_linear_layers_with_outputs_side_by_side(dtype: str) -> None:
    values = np.arange(-6, 6).reshape(3, 4)
    found = linear.pack(values, dtype, 5, 5)
    assert found.dtype == dtype
    assert found.tolist() == [[[*column, 0, 0] for column in values.T.tolist()]]
    blocks = linear.pack(values, dtype, 4, 2)
    assert blocks.tolist() == [[[a, b] for a, b, _ in values.T.tolist()], [[c, 0] for *_, c in values.T.tolist()]]


@pytest.mark.parametrize(("outputs", "inputs"), [(3, 4), (9, 21), (16, 32), (17, 33)])
@pytest.mark.parametrize(("ternary", "plus"), [(False, 0), (True, 0), (True, 12), (True, 16)])
def test_linear_layers_by_dot_products(outputs: int, inputs: int, ternary: bool, plus: int) -> None:
    lanes, tile = 4, 2
    rng = np.random.default_rng(0)
    values = rng.integers(-1, 2, (outputs, inputs)) if ternary else rng.integers(-127, 128, (outputs, inputs))
    found = linear_dot.pack(values.astype(np.int8), ternary, lanes, tile, plus)
    step = 16 if ternary else 4
    assert found.shape == (-(-outputs // 8), -(-inputs // step), tile, lanes, 4)
    assert found.dtype == (np.uint8 if ternary else np.int8)
    for o, i in np.ndindex(outputs, inputs):
        byte = int(found[o // 8, i // step, o % 8 // lanes, o % lanes, i % 4])
        if not ternary:
            assert byte == values[o, i]
            continue
        place = i % 16 // 4
        code = byte >> 2 * place & 3
        # One more than the code, or the code itself, of two bits with a sign.
        assert (code - 1 if 4 * place < plus else (code ^ 2) - 2) == values[o, i]
    assert found.size * (4 if ternary else 1) >= outputs * inputs


@pytest.mark.parametrize(("outputs", "inputs"), [(3, 4), (9, 70), (8, 64), (17, 33)])
@pytest.mark.parametrize("ternary", [False, True])
def test_linear_layers_with_inputs_side_by_side(outputs: int, inputs: int, ternary: bool) -> None:
    rng, tile = np.random.default_rng(0), 8
    values = rng.integers(-1, 2, (outputs, inputs)) if ternary else rng.integers(-127, 128, (outputs, inputs))
    found = linear_widened.pack(values.astype(np.int8), ternary, tile)
    step = 64 if ternary else 16
    assert found.shape == (-(-outputs // tile), -(-inputs // step), tile, 16)
    for o, i in np.ndindex(found.shape[0] * tile, found.shape[1] * step):
        byte = int(found[o // tile, i // step, o % tile, i % 16])
        value = ((byte >> i % 64 // 16 * 2 & 3) ^ 2) - 2 if ternary else byte  # two bits with a sign
        assert value == (values[o, i] if o < outputs and i < inputs else 0)


@pytest.mark.parametrize(("outputs", "inputs"), [(3, 4), (9, 21), (16, 32), (17, 33)])
@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("tile", [1, 2])
def test_linear_layers_by_pairs(outputs: int, inputs: int, ternary: bool, tile: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(-1, 2, (outputs, inputs)) if ternary else rng.integers(-127, 128, (outputs, inputs))
    found = linear_pairs.pack(values.astype(np.int8), ternary, tile)
    step, beside = (16, 4) if ternary else (2, 2)
    assert found.shape == (-(-outputs // (8 * tile)), -(-inputs // step), tile, 8, beside)
    assert found.dtype == (np.uint8 if ternary else np.int8)
    for o, i in np.ndindex(found.shape[0] * tile * 8, found.shape[1] * step):
        byte = int(found[o // (8 * tile), i // step, o // 8 % tile, o % 8, i % beside])
        inside = o < outputs and i < inputs
        if ternary:  # plus one where there is a weight
            assert byte >> i % 16 // 4 * 2 & 3 == (values[o, i] + 1 if inside else 0)
        else:
            assert byte == (values[o, i] if inside else 0)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize(("directions", "gates", "hidden", "padded"), [(1, 3, 5, 8), (2, 4, 4, 4), (2, 1, 3, 4)])
def test_recurrent_layers(dtype: str, directions: int, gates: int, hidden: int, padded: int) -> None:
    rng = np.random.default_rng(0)
    values = [rng.integers(-127, 128, (gates * hidden, hidden)).astype(dtype) for _ in range(directions)]
    found = recurrent.pack(values, gates, dtype, padded)
    assert found.dtype == dtype
    assert found.shape == (directions, hidden, gates, padded)
    assert not found[..., hidden:].any()
    for direction, i, gate, o in np.ndindex(directions, hidden, gates, hidden):
        assert found[direction, i, gate, o] == values[direction][gate * hidden + o, i]


# Lavin and Gray's matrices for F(4x4, 3x3), of pixels and of sums. Rows of weights were times 4, 6, 6, 24, 24 and 1.
PIXELS = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
SUMS = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
FACTORS = 24 // np.array([4, 6, 6, 24, 24, 1])


@pytest.mark.parametrize(("rows", "fan"), [(1, 1), (5, 8), (9, 11)])
@pytest.mark.parametrize("extreme", [False, True])
def test_winograds_weights_give_the_sums_modulo_32_bits(rows: int, fan: int, extreme: bool) -> None:
    rng = np.random.default_rng(rows)
    values, pixels = rng.integers(-128, 128, (rows, fan, 1, 3, 3)), rng.integers(-128, 128, (fan, 6, 6))
    if extreme:
        values, pixels = np.where(values < 0, -128, 127), np.where(pixels < 0, -128, 127)
    packed = dense_conv_winograd.pack(values.astype(np.int8), 8)
    assert packed.shape == (-(-rows // 8), 36, -(-fan // 8) * 8, 8)
    weights = packed.transpose(0, 3, 2, 1).reshape(-1, packed.shape[2], 6, 6).astype(np.int64)
    assert not weights[rows:].any()
    assert not weights[:, fan:].any()
    transformed = np.einsum("ik,ckl,jl->cij", PIXELS, pixels, PIXELS)
    assert np.abs(transformed).max() < 1 << 15
    products = (weights[:rows, :fan] * transformed).sum(1)
    scaled = SUMS * FACTORS
    found = np.einsum("ik,okl,jl->oij", scaled, products, scaled)
    want = np.zeros((rows, 4, 4), np.int64)
    for i, j in np.ndindex(3, 3):
        want += np.einsum("oc,cij->oij", values[:, :, 0, i, j], pixels[:, i : i + 4, j : j + 4])
    np.testing.assert_array_equal(found, 576 * want)
    low = (found * pow(9, -1, 1 << 32) & 0xFFFFFFFF).astype(np.uint32).view(np.int32) >> 6
    np.testing.assert_array_equal(low, want)


def test_winograds_sums_have_26_bits() -> None:
    full = np.full((2, 230, 1, 3, 3), 127, np.int8)  # 229 channels of 127 and -128 as pixels are 33,505,344 in all
    assert dense_conv_winograd.holds(full[:, :229])
    assert not dense_conv_winograd.holds(full)
    full[1] = 0
    assert not dense_conv_winograd.holds(-full)


@pytest.mark.parametrize("include_pad", [False, True])
@pytest.mark.parametrize(
    "window",
    [
        Window((1, 3, 3), (1, 1, 1), ((0, 0), (1, 1), (1, 1))),
        Window((1, 3, 2), (1, 2, 1), ((0, 0), (0, 2), (1, 0)), (1, 1, 2)),
        Window((2, 1, 2), (1, 1, 2), ((1, 1), (0, 0), (0, 1))),
    ],
)
def test_divisors_are_the_pixels_that_count(window: Window, include_pad: bool) -> None:
    dims = (2, 5, 6)
    size = window.output(dims)
    x = Halo(1, 1, dims, "float32", (9, 11))
    found = pool.divisors(x, window, size, 400, include_pad)
    assert found.dtype == np.float32
    assert found.shape == (400,)
    expected = np.ones(400, np.float32)
    for pixel in np.ndindex(*size):
        count = 0
        for tap in np.ndindex(*window.kernel):
            at = [p * s + t * d - lo for p, s, t, d, (lo, _) in zip(
                pixel, window.strides, tap, window.dilations, window.pads, strict=True,
            )]  # fmt: skip
            count += include_pad or all(0 <= a < n for a, n in zip(at, dims, strict=True))
        expected[(pixel[0] * 9 + pixel[1]) * 11 + pixel[2]] = 1 / count
    np.testing.assert_allclose(found, expected, rtol=1e-6)
