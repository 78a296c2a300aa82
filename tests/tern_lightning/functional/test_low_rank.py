"""Low-rank factors: their errors, and what they cost."""

import numpy as np
import pytest
import torch

from tern_lightning.functional.low_rank import ConvShape, candidate_ranks, macs, matrix_factors, tucker2
from tern_lightning.nn.low_rank_layers import MeasuredLatency


def kernel(outputs=6, inputs=5, size=(3, 3), seed=0):
    return torch.randn(outputs, inputs, *size, generator=torch.Generator().manual_seed(seed))


def tucker2_kernel(first, core, last):
    """The kernel ``[O, I, *k]`` that the three convolutions amount to."""
    return torch.einsum("rs...,or,si->oi...", core, last.flatten(1), first.flatten(1))


@pytest.mark.parametrize("size", [(3,), (3, 3), (2, 3, 1)])
def test_full_rank_is_exact_and_errors_fall_with_the_rank(size):
    weight = kernel(5, 5, size)
    errors = [float((weight - tucker2_kernel(*tucker2(weight, rank))).square().sum()) for rank in range(1, 6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-9
    # The higher-order decomposition is at most the sum of both truncations away, and no nearer than either.
    for rank, error in enumerate(errors, 1):
        parts = [np.linalg.svd(w.reshape(5, -1).numpy())[1] for w in (weight, weight.transpose(0, 1))]
        cut = [float((s[rank:] ** 2).sum()) for s in parts]
        assert max(cut) - 1e-4 <= error <= sum(cut) + 1e-4


def test_a_kernel_of_low_rank_is_found():
    first, core, last = torch.randn(2, 7), torch.randn(2, 2, 3, 3), torch.randn(6, 2)
    weight = torch.einsum("rskl,or,si->oikl", core, last, first)
    torch.testing.assert_close(tucker2_kernel(*tucker2(weight, 2)), weight, atol=1e-4, rtol=1e-4)


def test_matrices_have_the_best_factors():
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    first, last = matrix_factors(weight, 3)
    s = np.linalg.svd(weight.numpy())[1]
    assert float((weight - last @ first).square().sum()) == pytest.approx(float((s[3:] ** 2).sum()), rel=1e-4)
    assert float(first.norm()) == pytest.approx(float(last.norm()))


def test_costs():
    shape = ConvShape(8, 16, (3, 3), (2, 2), (10, 10), (5, 5))
    assert macs(shape) == 8 * 16 * 9 * 25
    assert macs(shape, 4) == 8 * 4 * 100 + 4 * 4 * 9 * 25 + 4 * 16 * 25
    assert candidate_ranks(20, 17, 8) == [8, 16]
    assert candidate_ranks(5, 9, 8) == [5]
    measured = MeasuredLatency(repeats=1)
    assert measured(shape, 4) > 0
    assert measured(shape) == measured(shape)
    assert set(measured.table) == {(shape, 4), (shape, None)}
