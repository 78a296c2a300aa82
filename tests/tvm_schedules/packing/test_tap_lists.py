"""Lists of taps, read as the kernels read them: what they sum is the product with the codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tvm_schedules.packing.codes import random_codes, signs
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.packing import tap_lists


@given(
    st.integers(0, 1000), st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.sampled_from([2, 5, 1000]),
    st.sampled_from([1, 2, 4]), st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)  # fmt: skip
def test_segments_add_up_to_a_convolution(
    seed: int, terms: int, groups: int, limit: int, share: int, zeros: float
) -> None:
    rng = np.random.default_rng(seed)
    rows, fan, dims = 4, 3, (1, 5, 6)
    window = Window((1, 3, 2), (1, 2, 1), ((0, 0), (1, 0), (1, 1)), (1, 1, 2), groups)
    x = Halo(1, fan * groups, dims, "float32", (8, 12), (0, 1, 1), (0, 1, 1), window.strides)
    image = rng.normal(size=(1, fan * groups, *dims)).astype(np.float32)
    memory = x.pack(image)
    codes = random_codes(rng, (terms, rows, fan, *window.kernel), zeros)
    levels = rng.uniform(0.5, 2, (terms, rows)).astype(np.float32)
    found = tap_lists.pack(codes, levels, window, x, limit, "int64", share)
    offsets, bounds, row, level, order = (found[k] for k in ("offsets", "bounds", "row", "level", "order"))
    assert offsets.dtype == np.int64
    assert {found[k].dtype for k in ("bounds", "row", "order")} == {np.dtype("int32")}

    # Output pixel (0, 0, 0), from the image itself.
    weight = (codes * levels[:, :, None, None, None, None]).sum(0)
    padded = np.pad(image[0], ((0, 0), *window.pads))[:, :1, :3, :3:2].reshape(groups, fan, *window.kernel)
    want = np.einsum("gofdhw,gfdhw->go", weight.reshape(groups, rows // groups, fan, *window.kernel), padded).ravel()

    assert sorted(order.tolist()) == list(range(rows))
    have = np.zeros(rows)
    for index, o in enumerate(order):
        for segment in range(row[index], row[index + 1]):
            plus, minus = (
                offsets[bounds[2 * segment + part] : bounds[2 * segment + part + 1]].tolist() for part in (0, 1)
            )
            assert plus == sorted(plus)
            assert minus == sorted(minus)
            assert max(len(plus), len(minus)) <= limit
            have[o] += level[segment] * (memory[plus].sum(dtype=np.float64) - memory[minus].sum(dtype=np.float64))
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)
    assert (row[0], row[-1]) == (0, len(level))
    assert len(offsets) == bounds[-1] + 1

    # A first term always has a segment, a further one only where it has codes; more where the limit asks for them.
    # Of one term with two levels, which has been made two, either always has one.
    least = 1 if terms == 2 and (codes[0] >= 0).all() and (codes[1] <= 0).all() else 0
    for index, o in enumerate(order):
        pieces = [-(-max(signs(term[o])) // limit) for term in codes]
        assert row[index + 1] - row[index] == max(1, pieces[0]) + sum(max(least, n) for n in pieces[1:])
    lengths = [signs(codes[:, o]) for o in order]
    for job in range(0, rows, share):
        assert set(order[job : job + share]) == set(range(job, job + share))
        assert lengths[job : job + share] == sorted(lengths[job : job + share])


def test_levels_that_differ_are_two_terms() -> None:
    codes = np.int8([[[1, -1, 0], [0, 1, -1]], [[-1, 0, 1], [1, -1, 0]]])
    positive, negative = np.float32([[2], [3]]), np.float32([[2], [4]])
    split, levels = tap_lists.split_levels(TernaryTensor(codes, positive, negative))
    assert levels.tolist() == [[2, 2], [3, 3], [4, 4]]
    assert split.tolist() == [codes[0].tolist(), [[0, 0, 1], [1, 0, 0]], [[-1, 0, 0], [0, -1, 0]]]


@pytest.mark.parametrize(("largest", "most"), [(255, 128), (1, 32767), (3, 10922)])
def test_sums_of_sixteen_bits_hold_so_many_taps(largest: int, most: int) -> None:
    assert tap_lists.taps_limit(Halo(1, 1, (1, 1, 1), "uint8", (1, 1)), largest) == most
    assert most * largest < 2**15 <= (most + 1) * largest
    assert tap_lists.taps_limit(Halo(1, 1, (1, 1, 1), "float32", (1, 1)), largest) == 2**30


@pytest.mark.parametrize("zeros", [0.5, 0.9, 1.0])
def test_rows_of_two_levels_have_two_segments(zeros: float) -> None:
    """What a row adds up, and what it takes away; rows that lack either too."""
    codes = random_codes(np.random.default_rng(3), (1, 6, 2, 1, 3, 3), zeros)
    codes[0, 1], codes[0, 2] = np.abs(codes[0, 1]), -np.abs(codes[0, 2])
    weight = TernaryTensor(codes, np.full((1, 6), 2, np.float32), np.full((1, 6), 3, np.float32))
    split, levels = tap_lists.split_levels(weight)
    window, x = Window((1, 3, 3)), Halo(1, 2, (1, 5, 5), "uint8", (7, 7), (0, 1, 1), (0, 1, 1))
    assert tap_lists.signs_apart(split)
    found = tap_lists.pack(split, levels, window, x, 128)
    assert found["row"].tolist() == list(range(0, 13, 2))
    assert found["level"].tolist() == [2, 3] * 6
    lengths = np.diff(found["bounds"]).reshape(6, 2, 2)
    assert (lengths[:, 0, 1] == 0).all()
    assert (lengths[:, 1, 0] == 0).all()
    assert [tuple(row) for row in lengths[:, (0, 1), (0, 1)]] == [signs(codes[0, o]) for o in found["order"]]
