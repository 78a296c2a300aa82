"""Reductions over a layer or its channels, against numpy on the kept weights of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tern_lightning.functional import shared


def rows_of(array: np.ndarray, axis: int, per_channel: bool) -> list[np.ndarray]:
    return [np.take(array, i, axis).ravel() for i in range(array.shape[axis])] if per_channel else [array.ravel()]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_reductions(axis: int, per_channel: bool, masked: bool) -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(3, 4, 5)).astype(np.float32)
    keep = rng.random(values.shape) < 0.6 if masked else np.ones(values.shape, bool)
    rows = rows_of(values, axis, per_channel)
    kept = [row[mask] for row, mask in zip(rows, rows_of(keep, axis, per_channel), strict=True)]
    mask = torch.from_numpy(keep) if masked else None
    weight, rule = torch.from_numpy(values), (axis, per_channel, mask)
    assert shared.row_count(weight, *rule).tolist() == [len(row) for row in kept]
    mean = shared.row_mean(weight, *rule)
    np.testing.assert_allclose(shared.row_sum(weight, *rule), [row.sum() for row in kept], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, [row.mean() for row in kept], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(shared.row_std(weight, mean, *rule), [row.std(ddof=1) for row in kept], rtol=1e-4)
    np.testing.assert_array_equal(shared.row_max(weight, *rule), [max(row.max(), 0) for row in kept])
    np.testing.assert_array_equal(shared.row_max(-weight.abs(), *rule), [0] * len(kept))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [1, 4])
def test_a_deviation_is_never_zero(size: int, masked: bool) -> None:
    values = torch.full((2, size), 3.0)
    mask = torch.ones(2, size, dtype=torch.bool) if masked else None
    for tiny in (1e-12, 1e-3):
        found = shared.row_std(values, torch.full((2,), 3.0), 0, True, mask, tiny)
        assert found.tolist() == pytest.approx([tiny] * 2)


def test_nothing_kept() -> None:
    values, mask = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[False, False], [True, False]])
    assert shared.row_mean(values, 0, True, mask).tolist() == [0, 3]
    assert shared.row_count(values, 0, True, mask).tolist() == [0, 1]
    assert shared.conditional_mean(values, mask, 0, True).tolist() == [1, 3]
    assert shared.conditional_mean(values, mask, 1, True).tolist() == [3, 1]
    assert shared.conditional_mean(values, mask, 0, False).tolist() == [3]


def test_two_weights_that_are_kept_have_a_deviation() -> None:
    values, keep = torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]])
    assert shared.row_std(values, torch.tensor([2.0]), 0, True, keep).item() == pytest.approx(2**0.5)
