"""No kernel may write past its own plane: the next one may belong to another thread, and be done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_schedules.layout import ALIGN, Halo

sizes = st.integers(1, 12)


@given(st.tuples(sizes, sizes, sizes), st.integers(0, 3), st.sampled_from(["uint8", "float32"]))
def test_whole_vectors_of_any_producer_fit_into_a_plane(dims: tuple[int, int, int], halo: int, dtype: str) -> None:
    pitch = (dims[1] + halo, dims[2] + halo)
    layout = Halo(1, 2, dims, dtype, pitch, lo=(0, halo, halo), hi=(0, halo, halo))
    for lanes in (16, 32, ALIGN):  # a kernel on bytes stores as many pixels as its vectors have bytes
        stored = -(-layout.run(dims) // lanes) * lanes
        assert layout.origin + stored <= layout.plane
    assert layout.plane * layout.itemsize % ALIGN == 0


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_small_plane_has_room_for_one_vector(dtype: str) -> None:
    assert Halo(1, 1, (1, 4, 4), dtype, (5, 5)).plane == 64
