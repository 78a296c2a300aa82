"""Several terms: nested supports, one level index, sequential residuals, masks."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning import functional
from tern_lightning.quantizers import get_quantizer
from tern_lightning.ternary_tensor import TernaryTensor

seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(3, 8), (4, 3, 3, 3), (6, 2, 5)])


def gauss(seed, shape=(16, 64)):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("terms", [2, 4])
@given(seed=seeds, shape=shapes, per_channel=st.booleans(), axis=st.integers(0, 1))
def test_parallel_terms(terms, seed, shape, per_channel, axis):
    """Against the published formula in numpy: term t of beta t * 0.05, levels the conditional means, one factor."""
    weight = gauss(seed, shape)
    found = functional.sws(weight, 0.05, per_channel, axis, terms=terms)
    rows = np.moveaxis(weight.numpy().astype(np.float64), axis, 0)
    groups = rows.reshape(len(rows), -1) if per_channel else rows.reshape(1, -1)
    codes = found.codes.movedim(axis + 1, 1).reshape(terms, *groups.shape).numpy()
    for c, row in enumerate(groups):
        size = np.abs(row)
        supports = [size >= 0.05 * (t + 1) * size.max() for t in range(terms)]
        means = np.array([size[s].mean() for s in supports])
        total = sum(m * np.sign(row) * s for m, s in zip(means, supports, strict=True))
        factor = (row @ total) / (total @ total)
        for t, support in enumerate(supports):
            assert (codes[t, c] != np.sign(row) * support).sum() <= 1  # rounding at the threshold
        if all((codes[t, c] == np.sign(row) * s).all() for t, s in enumerate(supports)):
            np.testing.assert_allclose(found.positive[:, c].numpy(), factor * means, rtol=1e-4)
    assert found.is_symmetric


@given(seed=seeds, shape=shapes, per_channel=st.booleans(), terms=st.sampled_from([1, 2, 3, 4]))
def test_level_index_decodes_to_the_sum_of_the_terms(seed, shape, per_channel, terms):
    found = functional.sws(gauss(seed, shape), 0.1, per_channel, 1, terms=terms)
    for first, second in zip(found.codes[:-1], found.codes[1:], strict=True):
        assert ((second == 0) | (second == first)).all()
    merged = functional.level_index(found)
    assert torch.equal(merged.dequantize(), found.dequantize())
    assert merged.bits == {1: 2, 2: 3, 3: 3, 4: 4}[terms]
    levels = 2 * terms * found.positive.shape[1]
    assert merged.nbytes() == -(-merged.bits * found.codes[0].numel() // 8) + 4 * levels
    assert merged.index.min() >= -terms
    assert merged.index.max() <= terms


def test_terms_that_are_not_nested_have_no_index():
    found = functional.sws(gauss(0), terms=2, mode="sequential")
    with pytest.raises(ValueError, match="terms must be nested"):
        functional.level_index(found)


def test_unequal_levels_merge_too():
    codes = torch.tensor([[[1, -1, 0, 1]], [[1, -1, 0, 0]]], dtype=torch.int8)
    weight = TernaryTensor(codes, torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [0.25]]))
    assert functional.level_index(weight).dequantize().tolist() == [[3.0, -0.75, 0.0, 1.0]]


@pytest.mark.parametrize("method", ["twn", "sws"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_sequential_error_falls_with_every_term(method, per_channel):
    weight = gauss(1)
    options = {"mode": "sequential", "beta": 0.15} if method == "sws" else {}
    errors = []
    for terms in (1, 2, 3, 4):
        found = get_quantizer(method, per_channel=per_channel, terms=terms, **options).ternary(weight)
        assert found.terms == terms
        errors.append(((found.dequantize() - weight).square().sum() / weight.square().sum()).item())
    assert all(b < a for a, b in itertools.pairwise(errors))
    if method == "twn":
        assert errors[0] == pytest.approx(0.19, abs=0.01)
        assert errors[1] < 0.06
        assert errors[2] < 0.025


def test_rescaling_is_what_makes_the_parallel_sum_fit():
    """Relative errors of a Gaussian layer, about 0.28, 0.21 and 0.11; without the factor they would rise to 5.6."""
    weight = gauss(2, (64, 3, 3, 64))
    errors = {}
    for terms in (1, 2, 4):
        found = functional.sws(weight, terms=terms).dequantize()
        errors[terms] = ((found - weight).square().sum() / weight.square().sum()).item()
    assert errors[1] > errors[2] > errors[4]
    assert errors[4] == pytest.approx(0.11, abs=0.04)
    plain = sum(functional.sws(weight, 0.05 * t).dequantize() for t in (1, 2, 3, 4))
    assert (plain - weight).square().sum() / weight.square().sum() > 3


@pytest.mark.parametrize("method", ["twn", "absmean", "sws"])
@given(seed=seeds, per_channel=st.booleans())
def test_pruned_weights_count_for_nothing(method, seed, per_channel):
    """Thresholds and levels with a mask are those of the kept weights alone."""
    weight = gauss(seed, (3, 20))
    mask = torch.from_numpy(np.random.default_rng(seed).random((3, 20)) < 0.6)
    quantizer = get_quantizer(method, per_channel=per_channel)
    found = quantizer.ternary(weight, 0, mask)
    assert not found.codes[0][~mask].any()
    wild = torch.where(mask, weight, torch.full_like(weight, 50.0))
    again = quantizer.ternary(wild, 0, mask)
    assert torch.equal(again.codes, found.codes)
    assert torch.equal(again.positive, found.positive)
    rows = (
        [(weight[i], mask[i], found.codes[0, i], i) for i in range(3)]
        if per_channel
        else [(weight.flatten(), mask.flatten(), found.codes[0].flatten(), 0)]
    )
    for values, chosen, codes, c in rows:
        alone = quantizer.ternary(values[chosen][None])
        assert torch.equal(alone.codes[0, 0], codes[chosen])
        torch.testing.assert_close(alone.positive[0, 0], found.positive[0, c])


def test_gradient_of_several_terms_reaches_the_latent_weight_once():
    weight = gauss(3).requires_grad_()
    upstream = torch.randn(weight.shape)
    get_quantizer("sws", terms=4, ste_clip=None)(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)


@pytest.mark.parametrize("options", [{"terms": 0}, {"terms": 5}, {"mode": "both"}])
def test_options(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be .* got {next(iter(options.values()))!r}"):
        get_quantizer("sws", **options)
