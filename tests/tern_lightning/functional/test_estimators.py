"""ADMM's projection, ParetoQ's thirds, Sherry's pattern, Hestia's softmax."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional import (
    absmean,
    arenas,
    hestia_schedule,
    seq,
    sherry,
    soft_ternary,
    ternary_projection,
)
from tern_lightning.functional.hestia import GAUSSIAN_TEMPERATURE
from tern_lightning.quantizers import get_quantizer

seeds = st.integers(0, 2**32 - 1)


def gauss(seed, shape=(6, 40)):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


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


@given(seed=seeds, shape=st.sampled_from([(3, 8), (4, 8, 3, 3), (2, 6, 3)]), axis=st.integers(0, 1))
def test_sherry_pattern(seed, shape, axis):
    weight = gauss(seed, shape)
    found = sherry(weight, True, axis)
    moved = found.codes[0].movedim(1 - axis, -1)
    for start in range(0, moved.shape[-1], 4):
        group = moved[..., start : start + 4]
        magnitude = weight.abs().movedim(1 - axis, -1)[..., start : start + 4]
        size = group.shape[-1]
        assert ((group == 0).sum(-1) == (1 if size == 4 else 0)).all()
        if size == 4:
            assert torch.equal((group == 0).float().argmax(-1), magnitude.argmin(-1))
    rows, codes = (x.movedim(axis, 0).flatten(1) for x in (weight, found.codes[0]))
    for c in range(len(rows)):
        assert found.positive[0, c].item() == pytest.approx(rows[c].abs()[codes[c] != 0].mean().item(), rel=1e-5)


def test_sherry_share_of_the_float_weight():
    assert [arenas(torch.tensor(p)).item() for p in (0.0, 0.05, 0.1, 0.55, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    weight = gauss(0).requires_grad_()
    quantizer = get_quantizer("sherry")
    quantizer.progress.fill_(0.05)
    hard = quantizer.ternary(weight.detach()).dequantize()
    values = quantizer.in_training(weight)
    torch.testing.assert_close(values, hard + 0.5 * weight)
    values.sum().backward()
    torch.testing.assert_close(weight.grad, torch.full_like(weight, 1.5))
    assert torch.equal(quantizer(weight).detach(), hard)
    quantizer.progress.fill_(1.0)
    torch.testing.assert_close(quantizer.in_training(weight).detach(), hard, rtol=0, atol=1e-6)
    assert not get_quantizer("sherry", residual=False).scheduled


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


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("seq", {"eps": 0}),
        ("sherry", {"warmup": 0}),
        ("hestia", {"temperature": 0}),
        ("hestia", {"end": 0.1}),
    ],
)
def test_options(method, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be .*got {next(iter(options.values()))}"):
        get_quantizer(method, **options)


def test_seq_of_masked_weights_is_zero():
    mask = torch.rand(6, 40) < 0.5
    assert not seq(gauss(0), torch.tensor([1.0]), mask=mask).codes[0][~mask].any()
