"""The lists that kernels add up, read as the kernels read them: what they sum is the product with the codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.packing import panel_lists, registry, tap_lists


def random_codes(rng: np.random.Generator, shape: tuple[int, ...], zeros: float) -> np.ndarray:
    return (rng.choice([-1, 1], shape) * (rng.random(shape) >= zeros)).astype(np.int8)


def signs(codes: np.ndarray) -> tuple[int, int]:
    return int((codes > 0).sum()), int((codes < 0).sum())


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
    for index, o in enumerate(order):
        pieces = [-(-max(signs(term[o])) // limit) for term in codes]
        assert row[index + 1] - row[index] == max(1, pieces[0]) + sum(pieces[1:])
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


@given(
    st.integers(0, 1000), st.integers(1, 7), st.sampled_from([1, 2, 3]), st.sampled_from([3, 7, 1000]),
    st.sampled_from([1, 2, 4]), st.sampled_from([1, 3]), st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)  # fmt: skip
def test_panels_add_up_to_a_product(
    seed: int, channels: int, panel: int, limit: int, share: int, unroll: int, zeros: float
) -> None:
    rng = np.random.default_rng(seed)
    rows, places, channel = 4, (0, 7, 2), 9
    codes = random_codes(rng, (rows, channels, len(places)), zeros)
    found = panel_lists.pack(codes, places, channel, panel, limit, share, unroll)
    assert {key: str(array.dtype) for key, array in found.items()} == {
        "offsets": "uint16", "bounds": "int32", "order": "uint16", "groups": "int32",
    }  # fmt: skip
    panels = -(-channels // panel)
    order, groups = found["order"].reshape(panels, rows), found["groups"].tolist()
    offsets, bounds = found["offsets"].reshape(-1), found["bounds"]
    assert len(bounds) == panels * rows * 2 + 1
    assert (bounds[0], bounds[-1] * unroll) == (0, len(offsets) - 1)
    pixels = rng.normal(size=(panels * panel, channel))
    pixels[channels:] = np.nan  # channels that are not there
    have = np.zeros(rows)
    for p in range(panels):
        memory = np.append(pixels[p * panel : (p + 1) * panel].ravel(), 0.0)  # zeros behind the panel
        begin = 2 * p * rows
        for index, o in enumerate(order[p]):
            own = codes[o, p * panel : (p + 1) * panel]
            for part, sign in ((0, 1), (1, -1)):
                run = slice(bounds[begin + 2 * index + part] * unroll, bounds[begin + 2 * index + part + 1] * unroll)
                list_of = offsets[run].tolist()
                assert list_of == sorted(list_of)
                count = int((own == sign).sum())
                assert len(list_of) == -(-count // unroll) * unroll
                assert list_of.count(panel * channel) == len(list_of) - count
                have[o] += sign * memory[list_of].sum()
        rounds = [
            tuple(-(-count // unroll) for count in signs(codes[o, p * panel : (p + 1) * panel])) for o in order[p]
        ]
        for job in range(0, rows, share):
            assert set(order[p, job : job + share]) == set(range(job, job + share))
            assert rounds[job : job + share] == sorted(rounds[job : job + share])
    np.testing.assert_allclose(have, (codes * pixels[:channels][:, list(places)]).sum((1, 2)), atol=1e-9)

    # Panels go together as long as no row has more codes of a sign than sums hold.
    assert (groups[0], groups[-1]) == (0, panels)
    for first, last, after in zip(groups[:-1], groups[1:], [*groups[2:], None], strict=True):
        assert first < last
        held = panel_lists.longest(codes[:, first * panel : last * panel], (last - first) * panel)
        assert held <= limit or last == first + 1
        if after is not None:
            assert panel_lists.longest(codes[:, first * panel : (last + 1) * panel], panels * panel) > limit


def test_the_longest_list() -> None:
    codes = np.int8([[[1, 1], [1, 0], [-1, -1]], [[0, 0], [-1, -1], [1, -1]]])
    assert panel_lists.longest(codes, 1) == 2
    assert panel_lists.longest(codes, 2) == 3
    assert panel_lists.longest(codes, 3) == 3
    assert panel_lists.longest(-codes, 3) == 3
    assert panel_lists.longest(np.tile(codes[:, :, :, None, None], (1, 1, 1, 3, 2)), 2) == 6 * 3
    assert panel_lists.longest(np.zeros((2, 3, 2), np.int8), 2) == 0


def test_the_only_level_is_in_the_scale_of_the_epilogue() -> None:
    codes = np.int8([[[1, -1, 0], [0, 1, -1]]])
    two, four = np.float32([[2]]), np.float32([[4]])
    for weight, expected in (
        (TernaryTensor(codes, two, two), [[1, 1]]),
        (TernaryTensor(codes, two, four), [[2, 2], [4, 4]]),
        (TernaryTensor(np.tile(codes, (2, 1, 1)), np.vstack([two, four]), np.vstack([two, four])), [[2, 2], [4, 4]]),
    ):
        found, levels = registry._rows(weight.stored, {"shape": list(weight.codes.shape)})
        assert levels.tolist() == expected
        assert len(found) == len(expected)
