"""Methods against formulas written in numpy, and their gradients against finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning import functional, metrics
from tern_lightning.functional import absmean
from tern_lightning.quantizers import Quantizer, get_quantizer, register
from tern_lightning.ternary_tensor import TernaryTensor


def reference(method, row):
    """Codes and level of one group of weights."""
    size = np.abs(row)
    if method == "absmean":
        scale = max(size.mean(), 1e-5)
        return np.clip(np.round(row / scale), -1, 1), scale
    chosen = size > 0.7 * size.mean() if method == "twn" else size >= 0.05 * size.max()
    chosen &= size > 0 if method == "twn" else True
    return np.sign(row) * chosen, size[chosen].mean() if chosen.any() else 1.0


weights = st.tuples(
    st.sampled_from([(3, 4), (4, 3, 2), (2, 3, 3, 3), (2, 2, 2, 2, 2)]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.01, 1.0, 30.0]),
).map(lambda a: torch.from_numpy(np.random.default_rng(a[1]).normal(size=a[0], scale=a[2]).astype(np.float32)))


@pytest.mark.parametrize("method", ["twn", "absmean", "sws"])
@given(weight=weights, per_channel=st.booleans(), axis=st.integers(0, 1))
def test_values(method, weight, per_channel, axis):
    found = get_quantizer(method, per_channel=per_channel).ternary(weight, axis)
    rows = np.moveaxis(weight.numpy().astype(np.float64), axis, 0)
    groups = rows.reshape(len(rows), -1) if per_channel else rows.reshape(1, -1)
    codes = found.codes[0].movedim(axis, 0).reshape(groups.shape).numpy()
    assert found.is_symmetric
    assert found.channel_axis == axis
    for group, own, level in zip(groups, codes, found.positive[0].tolist(), strict=True):
        expected, scale = reference(method, group)
        # A weight within rounding of the threshold may fall on either side.
        assert (own != expected).mean() <= (0.3 if len(group) < 10 else 0.1)
        assert (own == expected).any()
        if (own == expected).all():
            assert level == pytest.approx(scale, rel=1e-5)


@pytest.mark.parametrize("method", ["twn", "absmean", "sws"])
def test_exactly_on_a_fixed_example(method):
    weight = torch.tensor([[0.5, -1.5, 0.04, 2.0], [-0.6, 0.0, 1.0, -3.0]])
    expected = {
        "twn": [[0, -1, 0, 1], [0, 0, 1, -1]],
        "absmean": [[0, -1, 0, 1], [-1, 0, 1, -1]],
        "sws": [[1, -1, 0, 1], [-1, 0, 1, -1]],
    }[method]
    found = getattr(functional, method)(weight)
    assert found.codes[0].tolist() == expected
    chosen = weight.abs()[torch.tensor(expected) != 0]
    level = weight.abs().mean() if method == "absmean" else chosen.mean()
    assert found.positive.item() == pytest.approx(level.item())


def test_sws_keeps_the_boundary_and_twn_does_not():
    weight = torch.tensor([[1.0, 0.05, -0.05]])
    assert functional.sws(weight).codes[0].tolist() == [[1, 1, -1]]
    assert functional.twn(torch.ones(1, 3), factor=1.0).codes.any().item() is False


@pytest.mark.parametrize(("method", "clip"), [("twn", None), ("absmean", None), ("sws", 1.0)])
def test_straight_through_gradient_and_exact_values(method, clip):
    weight = torch.linspace(-2.3, 2.3, 24).reshape(4, 6).requires_grad_()
    upstream = torch.randn(4, 6)
    quantizer = get_quantizer(method)
    assert quantizer.ste_clip == clip
    values = quantizer(weight)
    assert torch.equal(values, quantizer.ternary(weight.detach()).dequantize())
    values.backward(upstream)
    passed = upstream if clip is None else upstream * (weight.detach().abs() < clip)
    assert torch.equal(weight.grad, passed)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_frozen_levels_move_as_the_projected_weights_would(symmetric, per_channel):
    """The latent gradient is the level's own gradient, by finite differences, over the number of its weights."""
    latent = torch.randn(3, 8).double().float().requires_grad_()
    codes = torch.tensor(np.random.default_rng(0).choice([-1, 0, 1], size=(3, 8)).astype(np.int8))
    coefficients = torch.randn(3, 8)

    def loss(positive, negative):
        w = TernaryTensor(codes[None], positive, negative).dequantize().double()
        return ((w - coefficients) ** 2 * (1 + coefficients.abs())).sum()

    levels = functional.frozen_levels(latent, codes, symmetric, per_channel)
    w = levels.dequantize().double()
    ((w - coefficients) ** 2 * (1 + coefficients.abs())).sum().backward()
    p, n = levels.positive.detach(), levels.negative.detach()
    h = 1e-2
    for c in range(p.shape[1]):
        step = torch.zeros_like(p)
        step[0, c] = h
        rows = slice(c, c + 1) if per_channel else slice(None)
        for sign in (1, -1):
            chosen = (codes[rows] != 0) if symmetric else codes[rows] == sign
            ups = (step, step) if symmetric else (step, 0 * step) if sign > 0 else (0 * step, step)
            slope = (loss(p + ups[0], n + ups[1]) - loss(p - ups[0], n - ups[1])) / (2 * h)
            got = (latent.grad[rows] * codes[rows])[chosen]
            assert got.numpy() == pytest.approx(np.full(got.shape, slope.item() / chosen.sum().item()), rel=1e-3)
    assert not latent.grad[codes == 0].any()


def test_frozen_levels_of_ternary_values_are_the_values():
    for method in ("absmean", "sws", "twn"):
        t = get_quantizer(method, per_channel=True).ternary(torch.randn(5, 40))
        again = functional.frozen_levels(t.dequantize(), t.codes[0], True, True)
        torch.testing.assert_close(again.dequantize(), t.dequantize())


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match=r"one of \['absmean'.*'twn'.*got 'tnw'"):
        get_quantizer("tnw")
    with pytest.raises(ValueError, match=r"among \['factor', 'per_channel', 'ste_clip', 'terms'\], got \['beta'\]"):
        get_quantizer("twn", beta=1)
    for name, options in (
        ("twn", {"factor": -1}),
        ("absmean", {"eps": 0}),
        ("sws", {"beta": 2}),
        ("sws", {"ste_clip": 0}),
    ):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be .*got"):
            get_quantizer(name, **options)
    with pytest.raises(ValueError, match="already registered by TWN"):
        register("twn")(type("Other", (Quantizer,), {}))


def test_metrics_over_two_layers():
    a = functional.twn(torch.tensor([[1.0, -3.0, 0.1, 0.2]]))
    b = functional.twn(torch.tensor([[1.0, 1.0]]))
    zeros, bits, flips = metrics.Sparsity(), metrics.CodeEntropy(), metrics.FlipRatio()
    for t in (a, b):
        zeros.update(t)
        bits.update(t)
    assert a.codes.tolist() == [[[0, -1, 0, 0]]] or a.codes.tolist() == [[[1, -1, 0, 0]]]
    count = int((a.codes == 0).sum())
    assert zeros.compute().item() == pytest.approx(count / 6)
    assert bits.compute().item() == pytest.approx(4 * a.entropy() / 6)
    assert functional.sparsity(a).item() == count / 4
    assert functional.code_entropy(b).item() == 0
    flips.update(torch.tensor([1, 0, -1]), torch.tensor([1, 1, 1]))
    flips.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert flips.compute().item() == pytest.approx(2 / 5)
    assert functional.flip_ratio(torch.tensor([1, 0, 1, 1]), torch.tensor([1, -1, 1, 1])).item() == 0.25
    with pytest.raises(ValueError, match="one shape"):
        flips.update(torch.zeros(2), torch.zeros(3))


def test_scale_of_absmean_has_a_lower_end():
    tiny = torch.full((1, 4), 4e-6)
    assert absmean(tiny).positive.item() == pytest.approx(1e-5)
    assert not absmean(tiny).codes.any()
    assert absmean(tiny, eps=1e-7).dequantize().tolist() == tiny.tolist()
