"""Lists that rows share: they give the rows back, are ternary, and are taken where they are worth it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tvm_schedules.backends.c.codes import encode
from tvm_schedules.backends.c.kernels.common.row_groups import _made, row_groups


def rows_of(groups: int, group: int, n: int, zeros: float, alone: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kept = (rng.random((groups, n)) >= zeros).repeat(group, 0) & (rng.random((groups * group, n)) >= alone)
    return (rng.choice([-1, 1], kept.shape) * kept).astype(np.int8)


@examples(200)
@given(
    st.integers(1, 5),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 60),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.1]),
    st.integers(0, 999),
)
def test_lists_give_the_rows_back(groups: int, group: int, n: int, zeros: float, alone: float, seed: int) -> None:
    rows = rows_of(groups, group, n, zeros, alone, seed)
    for made in _made(rows):
        np.testing.assert_array_equal(made.rows, rows)
        assert set(np.unique(made.lists)) <= {-1, 0, 1}
        assert np.abs(made.lists).sum(0).max() <= 1, "no place is in two lists of a group"
        assert (made.mix[0] == 1).all()
        # Where 16 bits hold the sums of a row, they hold those of a list.
        for sign in (1, -1):
            most = np.count_nonzero(rows == sign, axis=1).max()
            assert np.count_nonzero(made.lists == sign, axis=2).max() <= most


@pytest.mark.parametrize(("group", "shape"), [(4, (8, 4)), (2, (2, 2)), (1, None)])
def test_structure_that_is_there_is_used(group: int, shape: tuple[int, int] | None) -> None:
    rows = rows_of(16 // group, group, 576, 0.8, 0.0, 1)
    found = row_groups(rows)
    assert (None if found is None else found.mix.shape) == shape
    if found is not None:
        lists = found.lists.swapaxes(0, 1).reshape(-1, 576)
        assert np.count_nonzero(lists) * group == np.count_nonzero(rows)
        assert len(encode(lists)[0]) < 1.1 * len(encode(rows)[0]) / group + 4 * len(lists)


def test_an_odd_number_of_rows_stays_single() -> None:
    assert row_groups(rows_of(1, 3, 100, 0.5, 0.0, 0)) is None
