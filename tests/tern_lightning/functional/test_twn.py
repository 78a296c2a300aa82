"""Ternary weight networks: 0.7 times the mean as threshold, the mean of what is above as level."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional import twn
from tests.tern_lightning.functional.threshold_checks import FIXED, check_straight_through, check_values, weights


def reference(row):
    """Codes and level of one group of weights."""
    size = np.abs(row)
    chosen = (size > 0.7 * size.mean()) & (size > 0)
    return np.sign(row) * chosen, size[chosen].mean() if chosen.any() else 1.0


@given(weight=weights, per_channel=st.booleans(), axis=st.integers(0, 1))
def test_values(weight, per_channel, axis):
    check_values("twn", reference, weight, per_channel, axis)


def test_exactly_on_a_fixed_example():
    found = twn(FIXED)
    assert found.codes[0].tolist() == [[0, -1, 0, 1], [0, 0, 1, -1]]
    assert found.positive.item() == pytest.approx((1.5 + 2.0 + 1.0 + 3.0) / 4)


def test_the_boundary_is_zero():
    assert twn(torch.ones(1, 3), factor=1.0).codes.any().item() is False


def test_straight_through_gradient_and_exact_values():
    check_straight_through("twn", None)
