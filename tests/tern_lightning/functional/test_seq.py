"""ParetoQ's thirds: values and gradients by the published formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional import seq
from tern_lightning.quantizers import get_quantizer

seeds = st.integers(0, 2**32 - 1)


def gauss(seed, shape=(6, 40)):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@given(seed=seeds, per_channel=st.booleans())
def test_seq_values_are_the_published_formula(seed, per_channel):
    weight = gauss(seed)
    quantizer = get_quantizer("seq", per_channel=per_channel)
    quantizer.begin(weight)
    scale = quantizer.trained["scale"]
    rows = weight if per_channel else weight.reshape(1, -1)
    torch.testing.assert_close(scale.detach(), rows.abs().amax(1))
    with torch.no_grad():
        scale.mul_(0.5)
    a = scale.detach()[:, None].numpy().astype(np.float64)
    expected = a / 1.5 * np.round(1.5 * np.clip(rows.numpy() / a, -0.99, 0.99))
    found = quantizer.ternary(weight).dequantize().reshape(rows.shape)
    assert (np.abs(found.numpy() - expected) > 1e-5).mean() < 0.01
    # So the threshold is a third and the level two thirds of the range.
    np.testing.assert_allclose(np.abs(found[found != 0].numpy()).max(), (a * 2 / 3).max(), rtol=1e-5)
    assert (rows.abs()[(found != 0)] > 0.999 * (a / 3).min()).all()


@pytest.mark.parametrize("per_channel", [False, True])
def test_seq_gradients(per_channel):
    weight = gauss(3)
    quantizer = get_quantizer("seq", per_channel=per_channel)
    quantizer.begin(weight)
    with torch.no_grad():
        quantizer.trained["scale"].mul_(0.4)
    latent, upstream = weight.clone().requires_grad_(), torch.randn(weight.shape)
    values = quantizer(latent)
    assert torch.equal(values, quantizer.ternary(weight).dequantize())
    values.backward(upstream)
    scale = quantizer.trained["scale"]
    ratio = (weight / scale.detach().reshape(-1, 1)).numpy()
    inside = np.abs(ratio) <= 0.99
    assert 0.2 < inside.mean() < 0.9
    np.testing.assert_array_equal(latent.grad.numpy(), upstream.numpy() * inside)
    rounded = np.round(1.5 * np.clip(ratio, -0.99, 0.99)) / 1.5
    slope = np.where(inside, rounded - ratio, np.sign(ratio)) * upstream.numpy() / np.sqrt(weight.numel())
    expected = slope.sum(1) if per_channel else slope.sum(keepdims=True).reshape(1)
    np.testing.assert_allclose(scale.grad.numpy(), expected, rtol=1e-3, atol=1e-5)
    mask = torch.rand(weight.shape) < 0.5
    scale.grad = None
    quantizer(latent, 0, mask).backward(upstream)
    expected = (slope * mask.numpy()).sum(1) if per_channel else (slope * mask.numpy()).sum(keepdims=True).reshape(1)
    np.testing.assert_allclose(scale.grad.numpy(), expected, rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        scale.fill_(-1)
        quantizer.project(weight)
    assert (scale == 1e-5).all()


def test_seq_of_masked_weights_is_zero():
    mask = torch.rand(6, 40) < 0.5
    assert not seq(gauss(0), torch.tensor([1.0]), mask=mask).codes[0][~mask].any()


def test_the_end_of_the_range_is_inside():
    quantizer = get_quantizer("seq")
    quantizer.begin(torch.ones(1, 2))
    with torch.no_grad():
        quantizer.trained["scale"].fill_(1)
    latent = torch.tensor([[0.99, 1.0]], requires_grad=True)
    quantizer(latent).sum().backward()
    assert latent.grad.tolist() == [[1.0, 0.0]]
