"""Weights that are cut into blocks: the same values as in one piece, whatever the layout."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tern_lightning.functional import blocks as cutting
from tern_lightning.functional.blocks import scratch
from tern_lightning.functional.frozen import FrozenCodes
from tern_lightning.functional.gradient import masked
from tern_lightning.functional.hestia import softened
from tern_lightning.functional.multilevel import multilevel, multilevel_values
from tern_lightning.functional.shared import mean_magnitude
from tern_lightning.functional.spare import SpareMemory
from tern_lightning.functional.steps import above
from tern_lightning.functional.twn import twn, twn_values


@pytest.fixture(params=[7, 64])
def small(request, monkeypatch):
    monkeypatch.setattr(cutting, "BLOCK", request.param)


@pytest.mark.parametrize("per_channel", [False, True])
def test_sums_are_those_of_whole_rows(small, per_channel):
    weight, other = torch.randn(13, 11), torch.randn(13, 11)
    rows = (weight, other) if per_channel else (weight.reshape(1, -1), other.reshape(1, -1))
    assert len(cutting.blocks(*rows)) > 1
    torch.testing.assert_close(mean_magnitude(weight, 0, per_channel), rows[0].abs().mean(1))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("layout", ["rows", "columns", "last"])
@pytest.mark.parametrize("terms", [1, 2])
def test_frozen_values_are_the_least_squares_projection(small, per_channel, symmetric, layout, terms):
    weight = torch.randn(6, 5, 3, 3)
    if layout == "last":
        weight = weight.contiguous(memory_format=torch.channels_last)
    axis = 1 if layout == "columns" else 0
    codes = torch.randint(-1, 2, (terms, *weight.shape), dtype=torch.int8)
    frozen = FrozenCodes.of(codes, symmetric, per_channel, axis)
    latent = weight.clone().requires_grad_()
    values, upstream = frozen.values(latent), torch.randn_like(weight)
    values.backward(upstream)
    torch.testing.assert_close(values, frozen.levels(weight).dequantize(), rtol=0, atol=0)
    columns = codes if symmetric else torch.cat([codes.clamp(min=0), codes.clamp(max=0)])
    expected = []
    for one in (weight, upstream):
        rows = one.movedim(axis, 0).flatten(1) if per_channel else one.reshape(1, -1)
        basis = [c.movedim(axis, 0).flatten(1) if per_channel else c.reshape(1, -1) for c in columns.double()]
        found = [b @ torch.linalg.pinv(b) @ row for b, row in zip(torch.stack(basis, 2), rows.double(), strict=True)]
        shape = one.movedim(axis, 0).shape if per_channel else one.shape
        whole = torch.stack(found).reshape(shape)
        expected.append((whole.movedim(0, axis) if per_channel else whole).float())
    torch.testing.assert_close(values.detach(), expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(latent.grad, expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("terms", [1, 2, 3])
def test_values_of_several_levels_are_those_of_the_codes(small, per_channel, terms):
    weight = torch.randn(9, 17)
    found = multilevel(weight, terms, per_channel=per_channel)
    assert torch.equal(multilevel_values(weight, terms, per_channel=per_channel), found.dequantize())


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("pruned", [False, True])
def test_values_of_a_threshold_are_those_of_the_codes(small, per_channel, axis, pruned):
    weight, mask = torch.randn(9, 17), torch.rand(9, 17) > 0.5 if pruned else None
    found = twn(weight, per_channel=per_channel, channel_axis=axis, mask=mask)
    values = twn_values(weight, per_channel=per_channel, channel_axis=axis, mask=mask)
    assert torch.equal(values, found.dequantize())
    assert mask is None or not values[~mask].any()


def test_kept_memory_is_nobodys_result():
    """Weights of several sizes, one after the other, with what the earlier ones gave still there."""
    weights = [torch.randn(*shape) for shape in ((300, 300), (200, 100), (300, 300))]
    masks = [torch.rand(weight.shape) > 0.5 for weight in weights]
    calls = [twn_values, multilevel_values, lambda weight, mask: twn(weight, mask=mask).dequantize()]
    for call in calls:
        found = [call(weight, mask=mask) for weight, mask in zip(weights, masks, strict=True)]
        for weight, mask, values in zip(weights, masks, found, strict=True):
            with ThreadPoolExecutor(1) as another:  # a thread has memory of its own, which is fresh here
                assert torch.equal(values, another.submit(call, weight, mask=mask).result())


def test_kept_memory_is_for_plain_tensors_of_some_size():
    block = torch.zeros(200, 200)
    assert scratch(block).data_ptr() == scratch(block[:100]).data_ptr() != scratch(block, 1).data_ptr()
    assert scratch(block).shape == block.shape
    for other in (torch.zeros(3), block.clone().requires_grad_(), torch.zeros(200, 200, device="meta")):
        assert scratch(other) is not scratch(other)
        assert other.is_meta or scratch(other).data_ptr() != scratch(block).data_ptr()
    assert scratch(block, most=block.numel() - 1).data_ptr() != scratch(block).data_ptr()
    with torch.inference_mode():
        assert not scratch(block.double()).is_inference()
    torch.func.grad(lambda one: (scratch(one).copy_(one) * one).sum())(block)


def test_masked_values_and_gradients_are_zero():
    spare, keep = SpareMemory(), torch.rand(300, 300) > 0.5
    for memory in (None, spare, spare):
        values = torch.randn(300, 300, requires_grad=True)
        upstream = torch.randn(300, 300)
        found = masked(values, keep, memory)
        found.backward(upstream)
        assert torch.equal(found, values * keep)
        assert torch.equal(values.grad, upstream * keep)
    place = found.data_ptr()
    del found
    others = [torch.empty(300, 300) for _ in range(3)]  # what the allocator has
    assert masked(values.detach(), keep, spare).data_ptr() == place
    assert all(one.data_ptr() != place for one in others)
    short = torch.randn(4, requires_grad=True, dtype=torch.float64)
    flags = torch.tensor([True, False, True, True])
    assert torch.autograd.gradcheck(lambda one: masked(one, flags), short)
    assert torch.autograd.gradgradcheck(lambda one: masked(one, flags) ** 2, short)


def test_least_squares_levels_and_nearest_codes(small):
    weight = torch.randn(3, 200)
    found = multilevel(weight, 2, iterations=50)
    levels = found.positive.flatten().tolist()
    sums = torch.tensor([a * levels[0] + b * levels[1] for a in (-1, 0, 1) for b in (-1, 0, 1)])
    best = (weight[..., None] - sums).abs().amin(-1)
    torch.testing.assert_close((weight - found.dequantize()).abs(), best, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("height", [1, 4])
def test_counts_and_sums_above_bounds_are_those_of_sorted_magnitudes(monkeypatch, height):
    rows, bounds = torch.randn(height, 50), torch.rand(3, height).sort(0).values
    for size in (8, 10_000):
        monkeypatch.setattr(cutting, "BLOCK", size)
        counts, sums = above(rows.abs(), bounds)
        for row, magnitudes in enumerate(rows.abs().double().tolist()):
            for index, bound in enumerate(bounds[:, row].tolist()):
                beyond = [one for one in magnitudes if one > bound]
                assert counts[index, row] == len(beyond)
                assert sums[index, row].item() == pytest.approx(sum(beyond), rel=1e-6)


def test_softened_weights_are_the_softmax(small):
    weight, scale = torch.randn(8, 20), torch.rand(8) + 0.5
    for temperature in torch.tensor([0.005, 0.05, 0.351, 3.0]):
        values, slope = softened(weight, scale, temperature, 0, torch.tensor(0.25))
        latent = weight.double().requires_grad_()
        levels = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
        ratio = latent / scale.double()[:, None]
        share = torch.softmax(-((ratio[..., None] - levels) ** 2) / temperature.double(), -1)
        soft = 0.25 * (share @ levels) * scale.double()[:, None] + 0.75 * latent
        soft.sum().backward()
        torch.testing.assert_close(values.double(), soft.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(slope.double(), latent.grad, rtol=1e-3, atol=1e-3)
