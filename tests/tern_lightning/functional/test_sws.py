"""Ternarization by a share of the largest weight: 0.05 of it as threshold, the mean of what is above as level."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional import sws
from tests.tern_lightning.functional.threshold_checks import FIXED, check_straight_through, check_values, weights


def reference(row):
    """Codes and level of one group of weights."""
    size = np.abs(row)
    chosen = size >= 0.05 * size.max()
    return np.sign(row) * chosen, size[chosen].mean() if chosen.any() else 1.0


@given(weight=weights, per_channel=st.booleans(), axis=st.integers(0, 1))
def test_values(weight, per_channel, axis):
    check_values("sws", reference, weight, per_channel, axis)


def test_exactly_on_a_fixed_example():
    found = sws(FIXED)
    assert found.codes[0].tolist() == [[1, -1, 0, 1], [-1, 0, 1, -1]]
    assert found.positive.item() == pytest.approx((0.5 + 1.5 + 2.0 + 0.6 + 1.0 + 3.0) / 6)


def test_the_boundary_is_kept():
    assert sws(torch.tensor([[1.0, 0.05, -0.05]])).codes[0].tolist() == [[1, 1, -1]]


def test_straight_through_gradient_and_exact_values():
    check_straight_through("sws", 1.0)
