"""Ternary weights as sums of two-bit products, without tracing anything."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.exporter.weights import components
from tern_lightning.ternary_tensor import TernaryTensor
from tests.properties import examples


@examples(60)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 1),
    st.sampled_from([1.0, 0.0, -1.0]),
    st.integers(0, 2**31),
)
def test_components_add_up_to_the_weight(
    terms: int, rows: int, columns: int, per_channel: bool, axis: int, sign: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, 2, (terms, rows, columns)).astype(np.int8)
    size = (terms, (rows, columns)[axis] if per_channel else 1)
    positive, negative = (rng.integers(1, 4, size).astype(np.float32) / 2 for _ in range(2))
    positive[0] *= sign  # a trained level may reach zero or cross it
    weight = TernaryTensor(*map(torch.from_numpy, (codes, positive, negative)), channel_axis=axis)
    parts = components(weight)
    total = np.zeros((rows, columns))
    for part, scale in parts:
        assert part.dtype == torch.int8
        assert scale.shape == ((rows, columns)[axis],)
        assert (scale > 0).all()
        total += part.numpy() * (scale.numpy()[:, None] if axis == 0 else scale.numpy()[None, :])
    spread = [np.expand_dims(level, 2 - axis) for level in (positive, negative)]
    expected = np.where(codes > 0, spread[0], np.where(codes < 0, -spread[1], 0)).sum(0)
    np.testing.assert_array_equal(total, expected)
    assert terms <= len(parts) <= 2 * terms
