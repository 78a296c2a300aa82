"""Trained levels: values and gradients against finite differences, fixed sparsity, bounds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning import functional
from tern_lightning.functional import trained_levels, ttq
from tern_lightning.quantizers import get_quantizer


def begun(method, weight, axis=0, mask=None, **options):
    quantizer = get_quantizer(method, **options)
    quantizer.begin(weight, axis, mask)
    return quantizer


@given(seed=st.integers(0, 2**32 - 1), per_channel=st.booleans(), axis=st.integers(0, 1))
def test_values(seed, per_channel, axis):
    random = np.random.default_rng(seed)
    weight = torch.from_numpy(random.normal(size=(4, 3, 5)).astype(np.float32))
    count = weight.shape[axis] if per_channel else 1
    p, n = (torch.from_numpy(random.random(count).astype(np.float32) + 0.1) for _ in range(2))
    found = ttq(weight, p, n, 0.3, None, per_channel, axis).dequantize()
    rows = np.moveaxis(weight.numpy(), axis, 0)
    for c, row in enumerate(rows):
        bound = np.float32(0.3) * np.abs(row if per_channel else weight.numpy()).max()
        top, bottom = (level[c if per_channel else 0].item() for level in (p, n))
        expected = np.where(row > bound, top, np.where(row < -bound, -bottom, 0))
        np.testing.assert_array_equal(np.moveaxis(found.numpy(), axis, 0)[c], expected.astype(np.float32))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_gradients_of_the_levels_by_finite_differences(per_channel, normalize):
    """A level moved by h on a fixed assignment changes the loss by h times its gradient; catches a sign slip."""
    torch.manual_seed(0)
    weight = torch.randn(3, 40)
    quantizer = begun("ttq", weight, per_channel=per_channel, normalize=normalize)
    share = (40 if per_channel else 120) ** -0.5 if normalize else 1.0
    target, importance = torch.randn(3, 40), torch.rand(3, 40)

    def loss():
        return ((quantizer(weight) - target) ** 2 * importance).double().sum()

    loss().backward()
    for name, level in quantizer.trained.items():
        assert level.shape == (3 if per_channel else 1,)
        for c in range(len(level)):
            h = 1e-2
            with torch.no_grad():
                level[c] += h
                up = loss().item()
                level[c] -= 2 * h
                down = loss().item()
                level[c] += h
            assert level.grad[c].item() == pytest.approx(share * (up - down) / (2 * h), rel=1e-3), name


def test_gradient_of_the_weight_is_scaled_by_the_magnitudes():
    weight = torch.tensor([[1.0, -2.0, 0.01, -0.02]], requires_grad=True)
    found = ttq(weight.detach(), torch.tensor([3.0]), torch.tensor([0.5]))
    upstream = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    values = trained_levels(weight, found)
    assert torch.equal(values.detach(), torch.tensor([[3.0, -0.5, 0.0, 0.0]]))
    values.backward(upstream)
    assert torch.equal(weight.grad, torch.tensor([[3.0, 5.0, 100.0, 1000.0]]))


@given(seed=st.integers(0, 2**32 - 1), sparsity=st.floats(0, 0.99), per_channel=st.booleans(), masked=st.booleans())
def test_fixed_sparsity(seed, sparsity, per_channel, masked):
    random = np.random.default_rng(seed)
    weight = torch.from_numpy(random.normal(size=(4, 50)).astype(np.float32))
    mask = torch.from_numpy(random.random((4, 50)) < 0.7) if masked else None
    one = torch.ones(4 if per_channel else 1)
    codes = ttq(weight, one, one, 0.05, sparsity, per_channel, 0, mask).codes[0]
    for row, own, chosen in zip(
        *(x if per_channel else x.reshape(1, -1) for x in (weight, codes, torch.ones(4, 50) if mask is None else mask)),
        strict=True,
    ):
        count = min(round(len(row) * (1 - sparsity)), int(chosen.sum()))
        largest = (row.abs() * chosen).argsort(descending=True)[:count]
        expected = torch.zeros_like(own)
        expected[largest] = row.sign()[largest].to(torch.int8)
        assert torch.equal(own, expected)


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_compiled_program_has_the_same_zeros(per_channel):
    weight, one = torch.randn(4, 50), torch.ones(4 if per_channel else 1)
    found = torch.compile(lambda w: ttq(w, one, one, 0.05, 0.7, per_channel).codes, backend="eager", fullgraph=True)
    codes = found(weight)
    assert torch.equal(codes, ttq(weight, one, one, 0.05, 0.7, per_channel).codes)
    assert (codes != 0).sum() == 60


def test_levels_start_at_the_means_or_at_a_value():
    weight = torch.tensor([[1.0, 3.0, -4.0, 0.01]])
    start = get_quantizer("ttq").initial(weight)
    assert start["positive"].tolist() == [2.0]
    assert start["negative"].tolist() == [4.0]
    assert get_quantizer("ttq", initial_level=1.0).initial(weight)["negative"].tolist() == [1.0]
    # A sign that does not occur starts from the other's level.
    assert get_quantizer("ttq").initial(weight.abs())["negative"].tolist() == pytest.approx([8 / 3])
    assert get_quantizer("ttq").ternary(weight).dequantize().tolist() == [[2.0, 2.0, -4.0, 0.0]]


def test_levels_stay_positive():
    weight = torch.randn(4, 10)
    quantizer = begun("ttq", weight, floor=0.1)
    with torch.no_grad():
        quantizer.trained["negative"].fill_(-3.0)
        quantizer.project(weight)
    assert quantizer.trained["negative"].item() == pytest.approx(0.1 * weight.abs().mean().item())


def test_what_ternary_returns_does_not_change_later():
    weight = torch.randn(4, 10)
    quantizer = begun("ttq", weight)
    found = quantizer.ternary(weight)
    before = found.positive.clone()
    with torch.no_grad():
        quantizer.trained["positive"].add_(1)
    assert torch.equal(found.positive, before)
    assert not found.positive.requires_grad
    assert functional.frozen_levels(weight, found.codes[0], False).is_symmetric is False


@pytest.mark.parametrize(
    "options", [{"threshold": 2}, {"sparsity": 1.0}, {"floor": 0}, {"initial_level": -1}, {"rate": 0}]
)
def test_options(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be .*got {next(iter(options.values()))}"):
        get_quantizer("ttq", **options)


def test_a_weight_at_the_bound_has_no_level():
    level = torch.ones(1)
    assert ttq(torch.tensor([[2.0, 1.0, -1.5]]), level, level, 0.5).codes.tolist() == [[[1, 0, -1]]]
