"""Hestia's softmax: its limit, its gradient, its temperatures and phases."""

import numpy as np
import pytest
import torch

from tern_lightning.functional import absmean, hestia_schedule, soft_ternary
from tern_lightning.functional.hestia import GAUSSIAN_TEMPERATURE
from tern_lightning.quantizers import get_quantizer


def gauss(seed, shape=(6, 40)):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def test_soft_ternary_hardens_and_its_gradient_is_its_derivative():
    weight, scale = gauss(0).double(), torch.tensor([0.8], dtype=torch.float64)
    hard = absmean(weight.float()).dequantize()
    own = absmean(weight.float()).positive[0]
    near = (weight.abs() / own - 0.5).abs() < 0.05
    cold = soft_ternary(weight.float(), own, torch.tensor(1e-3))
    # Beyond 1 the nearest level is the outer one, as in clipped rounding.
    torch.testing.assert_close(cold[~near], hard[~near], atol=1e-3, rtol=0)
    for temperature in torch.tensor([0.05, 0.35, 2.0]):
        latent = weight.clone().requires_grad_()
        soft_ternary(latent, scale, temperature).sum().backward()
        h = 1e-6
        up, down = (soft_ternary(weight + change, scale, temperature) for change in (h, -h))
        slope = (up - down) / (2 * h)
        torch.testing.assert_close(latent.grad, slope, rtol=1e-4, atol=1e-6)


def test_first_temperature_is_best_for_gaussian_weights():
    weight = gauss(0, (300, 300))
    scale = weight.abs().mean().reshape(1)

    def error(temperature):
        return (soft_ternary(weight, scale, torch.tensor(temperature)) - weight).square().mean().item()

    best = error(GAUSSIAN_TEMPERATURE)
    assert best < error(GAUSSIAN_TEMPERATURE * 1.1)
    assert best < error(GAUSSIAN_TEMPERATURE / 1.1)


def test_hestia_phases():
    found = [hestia_schedule(torch.tensor(p), 0.4, 0.2, 0.8) for p in (0.0, 0.1, 0.2, 0.5, 0.8, 1.0)]
    assert [share.item() for share, _ in found] == pytest.approx([0, 0.5, 1, 1, 1, 1])
    assert [temperature.item() for _, temperature in found] == pytest.approx([0.4, 0.4, 0.4, 0.2, 0, 0], abs=1e-6)
    weight = gauss(0).requires_grad_()
    quantizer = get_quantizer("hestia", end=0.8)
    hard = quantizer.ternary(weight.detach()).dequantize()
    torch.testing.assert_close(quantizer.in_training(weight), weight)
    assert torch.equal(quantizer(weight).detach(), hard)
    for progress in (0.0, 0.15, 0.5, 0.79, 0.9):
        quantizer.progress.fill_(progress)
        weight.grad = None
        values = quantizer.in_training(weight)
        values.sum().backward()
        assert weight.grad.isfinite().all()
    assert torch.equal(values, hard)
    assert torch.equal(weight.grad, torch.ones_like(weight))
