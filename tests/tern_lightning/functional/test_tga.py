"""Truncated Gaussian approximation: the closed form, its derivatives, the drift guard."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional import gaussian_sparsity, inverse_mills, tga
from tern_lightning.quantizers import get_quantizer


def level(threshold, mean, std):
    return mean + std * inverse_mills(threshold / std)


@given(a=st.floats(0, 3), std=st.floats(0.01, 10))
def test_derivatives_of_the_level(a, std):
    """d alpha / d Delta = lam (lam - a) and d alpha / d sigma = lam - a lam (lam - a), by finite differences."""
    delta, std = torch.tensor(a * std, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    lam = inverse_mills(delta / std)
    h = 1e-5 * std
    slopes = lam * (lam - a), lam - a * lam * (lam - a)
    found = (level(delta + h, 0, std) - level(delta - h, 0, std)) / (2 * h)
    assert found.item() == pytest.approx(slopes[0].item(), rel=1e-5)
    found = (level(delta, 0, std + h) - level(delta, 0, std - h)) / (2 * h)
    assert found.item() == pytest.approx(slopes[1].item(), rel=1e-5)
    assert 0.63 < slopes[0] < 1


def test_inverse_mills_and_sparsity_against_integrals():
    x = np.linspace(-12, 12, 2_400_001)
    density = np.exp(-x * x / 2)
    for a in (0.0, 0.1, 0.61, 1.0, 2.0, 3.0):
        tail = x > a
        expected = (x * density)[tail].sum() / density[tail].sum()
        assert inverse_mills(torch.tensor(a)).item() == pytest.approx(expected, rel=1e-4)
        inside = density[np.abs(x) <= a].sum() / density.sum()
        assert gaussian_sparsity(torch.tensor(a)).item() == pytest.approx(inside, abs=1e-5)
    # Far in the tail 1 - Phi is not a float32 any more.
    assert inverse_mills(torch.tensor(20.0)).item() == pytest.approx(20.0498, rel=1e-4)


def test_level_is_the_conditional_mean_of_gaussian_weights():
    weight = torch.from_numpy(np.random.default_rng(0).normal(0.01, 0.3, size=(200, 500)).astype(np.float32))
    found = tga(weight, torch.tensor([0.25]), two_levels=True)
    for codes, value, sign in ((1, found.positive, 1), (-1, found.negative, -1)):
        assert value.item() == pytest.approx(sign * weight[found.codes[0] == codes].mean().item(), rel=5e-3)
    single = tga(weight, torch.tensor([0.25]))
    assert single.is_symmetric
    assert single.positive.item() == found.positive.item()
    assert torch.equal(single.codes, found.codes)
    shifted = (weight - weight.mean()).sign() * ((weight - weight.mean()).abs() > 0.25)
    assert torch.equal(found.codes[0], shifted.to(torch.int8))


@pytest.mark.parametrize("detach_stats", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("factor", [0.01, 0.8, 4.0])
def test_gradients(detach_stats, per_channel, factor):
    """The published rule: dW = G + S (1/n + dalpha/dsigma (W - mu) / ((n - 1) sigma)), dtheta = S dalpha/dDelta."""
    torch.manual_seed(1)
    weight = torch.randn(3, 50).double().float()
    quantizer = get_quantizer("tga", per_channel=per_channel, detach_stats=detach_stats)
    quantizer.begin(weight)
    rows = weight if per_channel else weight.reshape(1, -1)
    std, mean = rows.std(1), rows.mean(1)
    with torch.no_grad():
        quantizer.trained["threshold"].copy_(factor * std)
    latent, upstream = weight.clone().requires_grad_(), torch.randn(3, 50)
    quantizer(latent).backward(upstream)

    a = torch.full_like(std, min(max(factor, 0.05), 3.0))
    lam = inverse_mills(a)
    codes = quantizer.ternary(weight).codes[0]
    total = (upstream * codes).reshape(rows.shape).sum(1)
    inside = 0.05 <= factor <= 3.0
    theta = total * lam * (lam - a) * inside
    torch.testing.assert_close(quantizer.trained["threshold"].grad, theta, rtol=1e-3, atol=1e-4)
    expected = upstream.reshape(rows.shape).clone()
    if not detach_stats:
        # At a bound, which is a constant, sigma still moves a.
        slope = lam - a * lam * (lam - a)
        count = rows.shape[1]
        part = 1 / count + slope[:, None] * (rows - mean[:, None]) / ((count - 1) * std[:, None])
        expected = expected + total[:, None] * part
    torch.testing.assert_close(latent.grad, expected.reshape(3, 50), rtol=1e-3, atol=1e-4)


def test_threshold_stays_within_bounds_and_can_come_back():
    weight = torch.randn(6, 40)
    quantizer = get_quantizer("tga")
    quantizer.begin(weight)
    threshold, std = quantizer.trained["threshold"], weight.std()
    assert threshold.item() == pytest.approx(0.05 * weight.abs().max().item())
    for wild, bound in ((-1.0, 0.05), (100.0, 3.0)):
        with torch.no_grad():
            threshold.fill_(wild)
        outside = quantizer.ternary(weight)
        with torch.no_grad():
            quantizer.project(weight)
        assert threshold.item() == pytest.approx(bound * std.item())
        torch.testing.assert_close(outside.positive, quantizer.ternary(weight).positive)
        quantizer(weight).sum().backward()
        assert threshold.grad.abs() > 0 or not quantizer.ternary(weight).codes.any()


def test_penalty_draws_the_threshold_to_its_target():
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(100, 100)).astype(np.float32))
    quantizer = get_quantizer("tga", target_sparsity=0.8, penalty_strength=2.0)
    quantizer.begin(weight)
    threshold = quantizer.trained["threshold"]
    for _ in range(300):
        threshold.grad = None
        quantizer.penalty(weight).backward()
        with torch.no_grad():
            threshold -= 0.1 * threshold.grad
    assert quantizer.ternary(weight).sparsity() == pytest.approx(0.8, abs=0.02)
    assert get_quantizer("tga").penalty(weight) is None


def test_float32_under_autocast():
    weight = torch.randn(8, 16)
    quantizer = get_quantizer("tga")
    quantizer.begin(weight)
    expected = quantizer(weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(weight), expected)


def test_mask():
    weight, mask = torch.randn(4, 30), torch.rand(4, 30) < 0.5
    threshold = torch.tensor([0.7])
    found = tga(weight, threshold, mask=mask)
    alone = tga(weight[mask][None], threshold)
    assert torch.equal(found.codes[0][mask], alone.codes[0, 0])
    torch.testing.assert_close(found.positive, alone.positive)
    assert not found.codes[0][~mask].any()


@pytest.mark.parametrize(
    "options", [{"initial_threshold": -1}, {"low": -1}, {"high": 0.01}, {"target_sparsity": 1.0}, {"gradient_limit": 0}]
)
def test_options(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} must be .*got .*{value}"):
        get_quantizer("tga", **options)
