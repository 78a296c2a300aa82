"""Rounding to the mean of the magnitudes (BitNet b1.58)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional import absmean
from tests.tern_lightning.functional.threshold_checks import FIXED, check_straight_through, check_values, weights


def reference(row):
    """Codes and level of one group of weights."""
    scale = max(np.abs(row).mean(), 1e-5)
    return np.clip(np.round(row / scale), -1, 1), scale


@given(weight=weights, per_channel=st.booleans(), axis=st.integers(0, 1))
def test_values(weight, per_channel, axis):
    check_values("absmean", reference, weight, per_channel, axis)


def test_exactly_on_a_fixed_example():
    found = absmean(FIXED)
    assert found.codes[0].tolist() == [[0, -1, 0, 1], [-1, 0, 1, -1]]
    assert found.positive.item() == pytest.approx((0.5 + 1.5 + 0.04 + 2.0 + 0.6 + 0.0 + 1.0 + 3.0) / 8)


def test_straight_through_gradient_and_exact_values():
    check_straight_through("absmean", None)


def test_the_scale_has_a_lower_end():
    tiny = torch.full((1, 4), 4e-6)
    assert absmean(tiny).positive.item() == pytest.approx(1e-5)
    assert not absmean(tiny).codes.any()
    assert absmean(tiny, eps=1e-7).dequantize().tolist() == tiny.tolist()
