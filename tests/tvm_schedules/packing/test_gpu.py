"""Weights of graphics processors' kernels, read as these read them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tvm_schedules.packing.test_dense import WINDOW, image_of
from tvm_schedules.ir.layout import Window
from tvm_schedules.packing import gpu_conv_dot, gpu_linear_dot


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("tile", "slices"), [(1, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("fan", [2, 3])
@pytest.mark.parametrize("plus", [1, 128])
def test_convolutions(groups: int, tile: int, slices: int, fan: int, plus: int) -> None:
    rows = 6
    x, memory, seen = image_of(fan * groups)
    values = np.random.default_rng(1).integers(-plus, min(plus, 127) + 1, (rows, fan, *WINDOW.kernel)).astype(np.int8)
    window = Window(WINDOW.kernel, WINDOW.strides, WINDOW.pads, WINDOW.dilations, groups)
    found = gpu_conv_dot.pack(values, window, x, tile, slices, plus)
    words, offsets = found["words"], found["offsets"]
    quads = -(-fan * 6 // (4 * slices)) * slices
    assert (words.dtype, offsets.dtype) == (np.uint32, np.int32)
    assert words.shape == (groups, -(-rows // groups // tile), quads, tile)
    assert offsets.shape == (quads * 4,)
    assert (offsets[fan * 6 :] == offsets[0]).all()
    weights = words[..., None] >> np.uint32(8) * np.arange(4, dtype=np.uint32) & 255
    weights = weights.astype(np.int64).transpose(0, 1, 3, 2, 4).reshape(groups, -1, quads * 4) - plus
    assert not weights[:, rows // groups :].any()
    assert not weights[:, :, fan * 6 :].any()
    want = np.einsum("gok,gk->go", values.reshape(groups, rows // groups, -1), seen.reshape(groups, -1))
    for group in range(groups):
        inputs = memory[offsets + group * fan * x.phases * x.plane]
        np.testing.assert_array_equal((weights[group] @ inputs)[: rows // groups], want[group])


@given(
    st.integers(0, 1000), st.integers(1, 5), st.integers(1, 300), st.booleans(), st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]), st.integers(0, 2),
)  # fmt: skip
def test_linear_layers(seed: int, outputs: int, inputs: int, ternary: bool, lanes: int, vector: int, more: int) -> None:
    rng, most = np.random.default_rng(seed), 1 if ternary else 127
    values = rng.integers(-most, most + 1, (outputs, inputs)).astype(np.int8)
    found = gpu_linear_dot.pack(values, ternary, lanes, vector, outputs + more)
    codes = 16 if ternary else 4
    assert found.dtype == np.uint32
    assert found.shape == (outputs + more, -(-inputs // (codes * lanes * vector)), lanes, vector)
    words = found.transpose(0, 1, 3, 2).reshape(outputs + more, -1)  # in the order of the inputs
    have = np.zeros((outputs + more, words.shape[1] * codes), np.int64)
    for o, i in np.ndindex(have.shape):
        byte = int(words[o, i // codes]) >> 8 * (i % 4) & 255
        have[o, i] = (byte >> 2 * (i % 16 // 4) & 3) - 1 if ternary else byte - 128
    want = np.zeros_like(have)
    want[:outputs, :inputs] = values
    np.testing.assert_array_equal(have, want)
