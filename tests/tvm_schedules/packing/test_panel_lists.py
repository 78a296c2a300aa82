"""Lists of panels, read as the kernel reads them: what they sum is the product with the codes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.tvm_schedules.packing.codes import random_codes, signs
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.packing import panel_lists, registry


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
