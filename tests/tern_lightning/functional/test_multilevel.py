"""Weights and activations of several digits, against brute force and least squares."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional import sws, twn
from tern_lightning.functional.frozen import frozen_levels
from tern_lightning.functional.multilevel import activation_digits, limit_terms, multilevel, multilevel_activation
from tern_lightning.functional.residual import residual_terms
from tern_lightning.functional.steps import nearest
from tests.properties import examples


def error(weight, found):
    return (weight - found.dequantize()).square().mean().item()


@examples(25)
@given(st.integers(0, 99), st.booleans(), st.integers(0, 1))
def test_more_terms_and_more_rounds_never_fit_worse(seed, per_channel, axis):
    weight = torch.randn(6, 8, 3, generator=torch.Generator().manual_seed(seed))
    options = {"per_channel": per_channel, "channel_axis": axis}
    by_terms = [error(weight, multilevel(weight, terms, **options)) for terms in (1, 2, 3, 4)]
    assert all(late < early for early, late in itertools.pairwise(by_terms))
    by_rounds = [error(weight, multilevel(weight, 2, iterations=count, **options)) for count in range(5)]
    assert all(late <= early + 1e-7 for early, late in itertools.pairwise(by_rounds))


def test_gaussian_errors_fall_as_residual_ternarization_promises():
    weight = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0))
    found = [error(weight, multilevel(weight, terms, iterations=0)) for terms in (1, 2)]
    assert found[0] == pytest.approx(0.190, abs=0.005)
    assert found[1] < 0.06
    assert error(weight, multilevel(weight, 2, iterations=10)) < found[1]


@pytest.mark.parametrize("symmetric", [True, False])
def test_levels_are_the_least_squares_solution(symmetric):
    random = np.random.default_rng(1)
    codes = random.integers(-1, 2, size=(2, 4, 10)).astype(np.int8)
    weight = random.normal(size=(4, 10)).astype(np.float32)
    found = frozen_levels(torch.tensor(weight), torch.tensor(codes), symmetric, True)
    for channel in range(4):
        basis = codes[:, channel].astype(float).T
        if not symmetric:
            basis = np.concatenate([basis > 0, -1.0 * (basis < 0)], 1)
        expected = np.linalg.lstsq(basis, weight[channel], rcond=None)[0]
        own = torch.cat([found.positive[:, channel], found.negative[:, channel]][: 1 if symmetric else 2])
        np.testing.assert_allclose(own.numpy(), expected, atol=1e-5)


def test_one_term_is_the_conditional_mean_and_repeated_terms_have_a_finite_fit():
    weight = torch.tensor([[1.0, -3.0, 0.2]])
    codes = torch.tensor([[[1, -1, 0]]], dtype=torch.int8)
    assert frozen_levels(weight, codes).positive.item() == pytest.approx(2.0)
    twice = frozen_levels(weight, codes.expand(2, 1, 3))
    torch.testing.assert_close(twice.dequantize(), torch.tensor([[2.0, -2.0, 0.0]]))


@examples(20)
@given(st.integers(0, 99), st.integers(1, 3))
def test_every_weight_has_the_nearest_sum_and_masked_ones_zero(seed, terms):
    random = torch.Generator().manual_seed(seed)
    weight, mask = torch.randn(4, 9, generator=random), torch.rand(4, 9, generator=random) > 0.3
    found = multilevel(weight, terms, mask=mask)
    assert not found.codes[:, ~mask].any()
    assert (found.positive >= 0).all()
    assert torch.equal(multilevel(torch.where(mask, weight, 7.0), terms, mask=mask).codes, found.codes)


def brute_digits(x, levels, signed):
    out = []
    for level in levels:
        digit = 1 if x > level / 2 else -1 if signed and x < -level / 2 else 0
        out.append(digit)
        x = x - level * digit
    return out


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=6), st.booleans())
def test_activation_digits(values, signed):
    levels = [1.0, 0.5, 0.25]
    found = activation_digits(torch.tensor(values), torch.tensor(levels), signed)
    assert found.T.tolist() == [brute_digits(x, levels, signed) for x in values]


def test_equal_levels_are_uniform_rounding():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * 2
    found = multilevel_activation(x, torch.full((3,), 0.5))
    torch.testing.assert_close(found, (x / 0.5 - 1e-6).round().clamp(0, 3) * 0.5)


def test_activation_gradients():
    x = torch.tensor([-0.5, 0.2, 0.6, 1.2, 2.0], requires_grad=True)
    levels = torch.tensor([1.0, 0.5], requires_grad=True)
    multilevel_activation(x, levels).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert levels.grad.tolist() == activation_digits(x.detach(), levels.detach()).sum(1).tolist() == [3.0, 1.0]
    x.grad = None
    multilevel_activation(x, levels.detach(), signed=True).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]
    for signed in (False, True):
        top = torch.tensor([1.5], requires_grad=True)
        multilevel_activation(top, levels.detach(), signed).backward()
        assert top.grad.item() == 1


@pytest.mark.parametrize("per_channel", [False, True])
def test_equal_levels_leave_zero_weights_and_pruned_ones_without_code(per_channel):
    # Two terms of one level have several ways to say zero.
    rows = torch.tensor([[0.0, 2.0, -2.0, 0.0, 1.0, -1.0]]).expand(3, 6)
    rows, channels = (rows, 3) if per_channel else (rows.reshape(1, -1), 1)
    codes = nearest(torch.ones(2, channels)).codes(rows, rows.abs())
    total = codes.sum(0).reshape(3, 6)
    torch.testing.assert_close(total.float(), rows.reshape(3, 6))
    assert (codes.reshape(2, 3, 6)[:, :, [0, 3]] == 0).all()


def weight(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_term_that_is_left_is_plain_ternarization():
    """The first term of residual TWN is TWN, and its least-squares level the conditional mean."""
    w = weight(8, 30)
    one = limit_terms(w, residual_terms(w, 2, twn), torch.ones_like(w, dtype=torch.int8))
    assert torch.equal(one.codes[0], twn(w).codes[0])
    assert not one.codes[1].any()
    torch.testing.assert_close(one.dequantize(), twn(w).dequantize())


@pytest.mark.parametrize("per_channel", [False, True])
def test_levels_are_least_squares(per_channel):
    w = weight(4, 50)
    limit = torch.randint(0, 3, w.shape, generator=torch.Generator().manual_seed(1)).to(torch.int8)
    found = limit_terms(w, multilevel(w, per_channel=per_channel), limit)
    assert not found.codes[1][limit < 2].any()
    assert not found.codes[0][limit < 1].any()
    rows = [slice(c, c + 1) for c in range(4)] if per_channel else [slice(None)]
    for i, row in enumerate(rows):
        basis = found.codes[:, row].flatten(1).T.double().numpy()
        right = np.linalg.lstsq(basis, w[row].flatten().double().numpy(), rcond=None)[0]
        np.testing.assert_allclose(found.positive[:, i].numpy(), right, rtol=1e-5)


def test_nested_terms_stay_nested():
    w = weight(10, 40)
    limit = torch.randint(0, 5, w.shape, generator=torch.Generator().manual_seed(1)).to(torch.int8)
    found = limit_terms(w, sws(w, 0.05, terms=4), limit)
    for first, second in zip(found.codes[:-1], found.codes[1:], strict=True):
        assert not (second[first == 0]).any()
    assert (found.positive > 0).all()
