"""Codes that keep outputs, against an exhaustive search and against outputs computed one by one."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional.output_fit import fit_levels, fit_outputs, matched, output_error


def problem(seed, outputs, inputs, samples=40):
    """Weight, inputs that depend on each other, and their Gram matrix."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, inputs, generator=random) @ torch.randn(inputs, inputs, generator=random)
    return torch.randn(outputs, inputs, generator=random), x, x.T @ x


def rounded(weight, zeros, terms=1):
    """The largest weights as they are signed, every term the next best."""
    count = int(weight.shape[1] * (1 - zeros) + 1e-6)
    kept = torch.zeros_like(weight).scatter_(1, weight.abs().topk(count).indices, 1.0)
    codes = (weight.sign() * kept).to(torch.int8)
    return codes.expand(terms, -1, -1).clone()


def best_error(weight, gram):
    """The least error that one level and any codes can have, by trying all."""
    codes = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=len(weight))), dtype=torch.float64)
    seen = codes @ gram.double()
    square, wanted = (seen * codes).sum(1), seen @ weight.double()
    saved = torch.where(square > 0, wanted**2 / square.clamp_min(1e-12), 0.0)
    return (weight.double() @ gram.double() @ weight.double() - saved.max()).item()


@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_a_matched_weight_is_the_solution_of_least_squares(ridge):
    weight, x, gram = problem(0, 3, 5)
    wanted = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    strength = ridge * gram.diagonal().mean()
    # One problem of least squares: the data, and below them what holds the weight.
    left = torch.cat([x, strength.sqrt() * torch.eye(5)]).double()
    right = torch.cat([wanted @ weight.T, strength.sqrt() * weight.T]).double()
    found = matched(weight.double(), gram.double(), (x.T @ wanted).double(), ridge)
    torch.testing.assert_close(found, torch.linalg.lstsq(left, right).solution.T, rtol=1e-4, atol=1e-5)
    assert torch.equal(matched(weight, gram, gram, ridge), weight)


def test_it_comes_near_the_best_of_all_codes():
    shares = []
    for seed in range(12):
        weight, _, gram = problem(seed, 4, 7)
        codes, levels = fit_outputs(weight, gram, rounded(weight, 0.0))
        found = output_error(weight.double(), gram.double(), codes, levels.double())
        best = torch.tensor([best_error(row, gram) for row in weight])
        assert (found >= best * (1 - 1e-6) - 1e-6).all()
        size = ((weight @ gram) * weight).sum(1)
        shares.append(((found - best) / size).mean().item())
    assert sum(shares) / len(shares) < 0.03  # plain signs: 0.4


@given(
    seed=st.integers(0, 1000), inputs=st.integers(1, 40), zeros=st.sampled_from([None, 0.0, 0.3, 0.5, 0.9]),
    terms=st.integers(1, 3),
)  # fmt: skip
def test_it_is_never_worse_than_its_start_and_keeps_the_zeros(seed, inputs, zeros, terms):
    weight, x, gram = problem(seed, 3, inputs)
    codes = rounded(weight, zeros or 0.0, terms)
    before = output_error(weight.double(), gram.double(), *fit_levels(weight.double(), gram.double(), codes))
    found, fitted = fit_outputs(weight, gram, codes, zeros)
    assert (found.dtype, found.shape, fitted.shape) == (torch.int8, codes.shape, codes.shape[:2])
    assert found.abs().max() <= 1
    assert (fitted >= 0).all()
    values = (fitted[..., None] * found).sum(0)
    if zeros is not None:
        assert ((found != 0).any(0).sum(1) <= inputs * (1 - zeros) + 1e-6).all()
    outputs = (x.double() @ (weight - values).double().T).square().sum(0)
    # Levels are rounded to float32, which shows where several terms of one level leave no error at all.
    rounding = 1e-12 * (x.double() @ weight.double().T).square().sum(0)
    assert (outputs <= before * 1.001 + 1e-6 * before.max() + rounding).all()


def test_levels_are_those_of_least_squares():
    weight, x, gram = problem(3, 5, 9)
    codes = torch.randint(-1, 2, (2, 5, 9), generator=torch.Generator().manual_seed(1)).to(torch.int8)
    turned, levels = fit_levels(weight.double(), gram.double(), codes)
    for row in range(5):
        parts = x.double() @ codes[:, row].double().T
        wanted = torch.linalg.lstsq(parts, (x.double() @ weight[row].double())[:, None]).solution[:, 0]
        signs = (turned[:, row].double() * codes[:, row]).sum(1).sign()
        assert torch.allclose(levels[:, row] * signs, wanted, rtol=1e-5, atol=1e-7)


def test_the_error_is_that_of_the_outputs():
    weight, x, gram = problem(4, 3, 6)
    codes, levels = rounded(weight, 0.4), torch.ones(1, 3)
    wanted = (x @ (weight - levels[0][:, None] * codes[0]).T).square().sum(0)
    assert torch.allclose(output_error(weight, gram, codes, levels), wanted, rtol=1e-3)


def test_inputs_that_are_always_zero_get_no_code():
    weight, x, _ = problem(5, 3, 8)
    x[:, 2] = 0
    codes, _ = fit_outputs(weight, x.T @ x, rounded(weight, 0.5), zeros=0.5)
    assert not codes[:, :, 2].any()
    assert codes.any()


@pytest.mark.parametrize("inputs", [127, 128, 129, 300])
def test_blocks_change_nothing(inputs, monkeypatch):
    weight, _, gram = problem(6, 4, inputs, 500)
    found = fit_outputs(weight, gram, rounded(weight, 0.5), zeros=0.5)
    monkeypatch.setattr("tern_lightning.functional.output_fit.BLOCK", 7)
    other = fit_outputs(weight, gram, rounded(weight, 0.5), zeros=0.5)
    errors = [output_error(weight.double(), gram.double(), codes, levels.double()) for codes, levels in (found, other)]
    assert torch.allclose(errors[0], errors[1], rtol=0.02)
