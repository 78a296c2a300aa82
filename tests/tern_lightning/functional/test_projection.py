"""ADMM's projection on ternary weights: the best of all codes and levels."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional.projection import ternary_projection

seeds = st.integers(0, 2**32 - 1)


def weights_of_many_kinds(seed, shape):
    """Gaussian, heavy tails, equal magnitudes, rows of zeros, two heaps, one outlier."""
    rng = np.random.default_rng(seed)
    values, kind = rng.normal(size=shape), rng.integers(6)
    if kind == 1:
        values = np.sign(values) * np.exp(3 * np.abs(values))
    elif kind == 2:
        values = np.round(values * 2) / 2
    elif kind == 3:
        values[rng.integers(shape[0])] = 0
    elif kind == 4:
        values = values * 0.05 + (rng.random(shape) < 0.3)
    elif kind == 5:
        values.reshape(-1)[rng.integers(values.size)] = 1e4
    return torch.from_numpy(values.astype(np.float32))


def check_projection(row, projected):
    """What a projection takes off the squared norm is most for one number of codes, each with the mean as level."""
    row = row.astype(np.float64)
    size = np.sort(np.abs(row))[::-1]
    best = (size.cumsum() ** 2 / np.arange(1, len(size) + 1)).max()
    gain = np.square(row).sum() - np.square(row - projected).sum()
    assert gain == pytest.approx(best, rel=1e-5)


@given(seed=seeds, per_channel=st.booleans(), axis=st.integers(0, 1), masked=st.booleans())
def test_no_ternary_weight_is_closer_than_the_projection(seed, per_channel, axis, masked):
    weight = weights_of_many_kinds(seed, (4, 3, 5))
    mask = torch.from_numpy(np.random.default_rng(seed).random(weight.shape) < 0.7) if masked else None
    found = ternary_projection(weight, per_channel, axis, mask)
    values = weight if mask is None else weight * mask
    rows, own = (
        np.moveaxis(x.numpy(), axis, 0).reshape(weight.shape[axis] if per_channel else 1, -1)
        for x in (values, found.dequantize())
    )
    assert mask is None or not found.codes[0][~mask].any()
    for row, ternary in zip(rows, own, strict=True):
        check_projection(row, ternary)


def test_the_projection_is_best_among_all_codes_and_levels():
    """Brute force over codes of both signs, the level by least squares."""
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 5, 7):
        codes = np.array([c for c in itertools.product((-1, 0, 1), repeat=size) if any(c)])
        for row in rng.normal(size=(8, size)).astype(np.float32):
            level = (codes @ row) / (codes * codes).sum(1)
            best = np.square(row - level[:, None] * codes).sum(1).min()
            found = ternary_projection(torch.from_numpy(row[None])).dequantize().numpy()
            assert np.square(row - found).sum() == pytest.approx(best, abs=1e-5)


@given(seed=seeds, rows=st.integers(1, 3), length=st.integers(1025, 3000))
def test_long_rows_have_the_best_level_as_well(seed, rows, length):
    """Of long rows only what is near the cut is sorted."""
    weight = weights_of_many_kinds(seed, (rows, length))
    found = ternary_projection(weight, per_channel=True).dequantize().numpy()
    for row, ternary in zip(weight.numpy(), found, strict=True):
        check_projection(row, ternary)


@pytest.mark.parametrize("length", [40, 4000])
def test_the_projection_of_nothing(length):
    weight = torch.zeros(2, length)
    weight[1, 3] = -2.0
    found = ternary_projection(weight, per_channel=True)
    assert not found.codes[0, 0].any()
    assert found.positive.tolist() == [[1.0, 2.0]]
    assert found.dequantize()[1].nonzero().tolist() == [[3]]


def test_ternary_projection_with_mask_and_channels():
    v = torch.tensor([[1.0, -1.2, 0.1], [10.0, 0.2, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = ternary_projection(v, per_channel=True, mask=mask)
    assert found.codes[0].tolist() == [[1, -1, 0], [1, 0, 0]]
    assert found.positive[0].tolist() == pytest.approx([1.1, 10.0])
