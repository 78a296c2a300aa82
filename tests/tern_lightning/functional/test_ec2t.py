"""Entropy-constrained assignment: thresholds against the argmin, limits, levels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional import ec2t, entropy_assignment, entropy_groups, size_factor
from tern_lightning.quantizers import get_quantizer

seeds = st.integers(0, 2**32 - 1)


def draw(seed, shape=(20, 30), skew=0.2):
    random = np.random.default_rng(seed)
    weight = torch.from_numpy((random.normal(size=shape) + random.normal() * skew).astype(np.float32))
    p, n = (torch.tensor(random.uniform(0.2, 1.2) * weight.abs().max().item()) for _ in range(2))
    return weight, p, n


def published(weight, p, n, strength, delta):
    """The published steps with three distances per weight, in float64: codes, shares, multiplier."""
    w = weight.double().numpy().ravel()
    centers = np.array([-n.item(), 0.0, p.item()])
    distances = (w[None] - centers[:, None]) ** 2
    nearest = distances.argmin(0)
    counts = np.maximum(np.bincount(nearest, minlength=3), 1).astype(float)
    shares = counts / counts.sum()
    if shares[1] < 0.5:
        shares[[0, 2]] *= 0.5 / (shares[0] + shares[2])
        shares[1] = 0.5
    bits = -np.log2(shares)
    limits = []
    for c, extreme, center in ((0, w.min(), centers[0]), (2, w.max(), centers[2])):
        gain = extreme**2 - (extreme - center) ** 2
        if bits[c] - bits[1] > 1e-12 and gain > 0:
            limits.append(gain / (bits[c] - bits[1]))
    multiplier = strength * delta * min(limits) if limits else 0.0
    costs = distances + multiplier * bits[:, None]
    return costs.argmin(0).reshape(weight.shape) - 1, np.sort(costs, 0), shares, multiplier


@given(seed=seeds, strength=st.floats(0, 1), delta=st.floats(0.05, 1), skew=st.sampled_from([0.0, 0.3, 2.0]))
def test_thresholds_are_the_argmin(seed, strength, delta, skew):
    weight, p, n = draw(seed, skew=skew)
    expected, costs, shares, multiplier = published(weight, p, n, strength, delta)
    found = entropy_assignment(weight, p, n, strength, delta)
    np.testing.assert_allclose(found.shares.numpy(), shares, rtol=1e-4)
    assert found.shares.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert found.multiplier.item() == pytest.approx(multiplier, rel=1e-3, abs=1e-6)
    codes = ec2t(weight, p[None], n[None], strength, delta).codes[0].numpy()
    clear = (costs[1] - costs[0]).reshape(weight.shape) > 1e-4
    np.testing.assert_array_equal(codes[clear], expected[clear])
    assert clear.mean() > 0.98


@given(seed=seeds)
def test_no_strength_is_the_nearest_level_and_full_strength_loses_exactly_one(seed):
    weight, p, n = draw(seed, skew=0.1)
    p, n = p.clamp(max=weight.max() * 0.9), n.clamp(max=-weight.min() * 0.9)
    codes = ec2t(weight, p[None], n[None], 0.0).codes[0]
    centers = torch.stack([-n, torch.zeros(()), p])
    nearest = (weight[None] - centers[:, None, None]).abs().argmin(0) - 1
    assert torch.equal(codes, nearest.to(torch.int8))
    codes = ec2t(weight, p[None], n[None], 1.0).codes[0]
    assert len(codes.unique()) == 2
    assert (codes == 0).any()


def test_sparsity_of_a_gaussian_layer_grows_with_the_strength():
    """With levels at 0.45 of the extremes: about 60, 67, 74, 84 and 95% zeros at 0, .05, .1, .2, .4."""
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(16, 288)).astype(np.float32))
    quantizer = get_quantizer("ec2t")
    quantizer.begin(weight)
    found = []
    for strength in (0.0, 0.05, 0.1, 0.2, 0.4):
        quantizer.strength.fill_(strength)
        found.append(quantizer.ternary(weight).sparsity())
    assert found == pytest.approx([0.60, 0.67, 0.74, 0.84, 0.95], abs=0.045)
    quantizer.size_factor.fill_(0.5)
    assert quantizer.ternary(weight).sparsity() == pytest.approx(found[3], abs=1e-9)


def test_degenerate_layers():
    level = torch.tensor(1.0)
    for weight in (torch.zeros(4, 4), torch.full((4, 4), 0.3), torch.ones(4, 4) * 5, -torch.ones(4, 4) * 5):
        for strength in (0.0, 0.5, 1.0):
            found = entropy_assignment(weight, level, level, strength)
            assert all(torch.isfinite(value).all() for value in vars(found).values())
            assert found.upper > 0 > found.lower
    start = get_quantizer("ec2t").initial(torch.zeros(3, 3))
    assert start["positive"].item() == start["negative"].item() == 1.0
    start = get_quantizer("ec2t", initial_level=0.5).initial(torch.tensor([[1.0, 2.0]]))
    assert (start["positive"].item(), start["negative"].item()) == (1.0, 1.0)


@given(seed=seeds, strength=st.floats(0, 1))
def test_mask(seed, strength):
    weight, p, n = draw(seed)
    mask = torch.from_numpy(np.random.default_rng(seed).random((20, 30)) < 0.6)
    found = ec2t(torch.where(mask, weight, torch.full_like(weight, 30.0)), p[None], n[None], strength, mask=mask)
    alone = ec2t(weight[mask][None], p[None], n[None], strength)
    assert torch.equal(found.codes[0][mask], alone.codes[0, 0])
    assert not found.codes[0][~mask].any()


def test_level_gradients_by_finite_differences_and_floor():
    torch.manual_seed(0)
    weight = torch.randn(5, 40)
    quantizer = get_quantizer("ec2t")
    quantizer.begin(weight)
    quantizer.strength.fill_(0.1)
    codes = quantizer.ternary(weight).codes[0]
    target = torch.randn(5, 40)

    def loss(p, n):
        values = p * (codes > 0) - n * (codes < 0)
        return ((values - target) ** 2).double().sum().item()

    ((quantizer(weight) - target) ** 2).sum().backward()
    p, n = (quantizer.trained[name].item() for name in ("positive", "negative"))
    h = 1e-3
    slopes = {"positive": loss(p + h, n) - loss(p - h, n), "negative": loss(p, n + h) - loss(p, n - h)}
    for name, slope in slopes.items():
        assert quantizer.trained[name].grad.item() == pytest.approx(slope / (2 * h) / 200**0.5, rel=1e-3)
    with torch.no_grad():
        quantizer.trained["negative"].fill_(-1.0)
        quantizer.project(weight)
    assert quantizer.trained["negative"].item() == pytest.approx(0.675 * weight.std().item(), rel=1e-5)


def test_size_factor():
    assert size_factor(100, 100) == 1.0
    assert size_factor(10, 100) == pytest.approx(0.15 / 1.05)


@pytest.mark.parametrize("options", [{"initial_level": 0}, {"floor": -1}, {"rate": 0}])
def test_options(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be .*got {next(iter(options.values()))}"):
        get_quantizer("ec2t", **options)


@given(
    seed=seeds, strength=st.floats(0, 1), delta=st.floats(0.05, 1), group=st.integers(1, 5), axis=st.integers(0, 1),
    shape=st.sampled_from([(7, 5), (4, 3, 3), (6, 2, 3, 3)]), masked=st.booleans(),
)  # fmt: skip
def test_groups_are_zero_together_where_that_costs_less(seed, strength, delta, group, axis, shape, masked):
    """Against a loop over groups, in float64, from the published shares."""
    weight, p, n = draw(seed, shape, skew=0.3)
    mask = torch.from_numpy(np.random.default_rng(seed).random(shape) > 0.3) if masked else None
    values = (weight if mask is None else weight * mask).double().movedim(axis, 0).numpy()
    bits = -np.log2(entropy_assignment(weight, p, n, 0.0, mask=mask).shares.double().numpy())
    centers = np.array([-n.item(), 0.0, p.item()])
    nearest = np.abs(values[..., None] - centers).argmin(-1)
    worth = values**2 - (values - centers[nearest]) ** 2
    price = np.where(nearest == 1, 0.0, np.maximum(bits[nearest] - bits[1], 0))
    blocks = [
        (slice(start, start + group), *place)
        for start in range(0, len(values), group)
        for place in np.ndindex(values.shape[1:])
    ]
    largest = max((worth[b].sum() / price[b].sum() for b in blocks if price[b].sum() > 0), default=0.0)
    codes = entropy_groups(weight, p, n, strength, delta, group, axis, mask).movedim(axis, 0).numpy()
    for block in blocks:
        gained, paid = worth[block].sum(), strength * delta * largest * price[block].sum()
        if abs(gained - paid) > 1e-4 * (1 + largest):
            expected = nearest[block] - 1 if gained > paid else 0 * nearest[block]
            np.testing.assert_array_equal(codes[block], expected)


def test_no_strength_takes_the_nearest_levels_and_full_strength_none():
    weight, p, n = draw(3, (8, 6))
    none = entropy_groups(weight, p, n, 0.0, 1.0, 2)
    assert torch.equal(none, ec2t(weight, p[None], n[None]).codes[0])
    shares = [float((entropy_groups(weight, p, n, s, 1.0, 2) == 0).float().mean()) for s in (0.0, 0.2, 0.5, 1.0)]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert shares[0] < shares[1]


def test_the_method_makes_pairs_zero_together():
    weight, _, _ = draw(5, (8, 6, 3, 3))
    method = get_quantizer("ec2t", group=2)
    method.strength.fill_(0.4)
    codes = method.ternary(weight).codes[0]
    nearest = get_quantizer("ec2t").ternary(weight).codes[0]
    whole = (codes[0::2] == 0) & (codes[1::2] == 0)
    assert 0.1 < whole.float().mean() < 0.95
    assert torch.equal(codes[0::2][~whole], nearest[0::2][~whole])
    with pytest.raises(ValueError, match="group must be >= 1, got 0"):
        get_quantizer("ec2t", group=0)


@given(seed=seeds, strength=st.floats(0, 0.9))
def test_one_level_is_that_of_both_signs(seed, strength):
    """It starts at the mean of the two, and its gradient is the sum of theirs."""
    weight = draw(seed)[0].requires_grad_()
    both, one = get_quantizer("ec2t"), get_quantizer("ec2t", two_levels=False)
    starts = [method.initial(weight.detach()) for method in (both, one)]
    assert list(starts[1]) == ["positive"]
    torch.testing.assert_close(starts[1]["positive"], (starts[0]["positive"] + starts[0]["negative"]) / 2)
    level = starts[1]["positive"]
    factor = torch.from_numpy(np.random.default_rng(seed).normal(size=tuple(weight.shape)).astype(np.float32))
    found = {}
    for method, names in ((both, ("positive", "negative")), (one, ("positive",))):
        method.strength.fill_(strength)
        method.begin(weight.detach())
        with torch.no_grad():
            for name in names:
                method.trained[name].copy_(level)
        values = method(weight)
        (values * factor).sum().backward()
        gradients = [method.trained[name].grad for name in names]
        found[len(names)] = (values.detach(), sum(gradients), weight.grad.clone())
        weight.grad = None
    for two, alone in zip(found[2], found[1], strict=True):
        torch.testing.assert_close(alone, two)
    assert one.symmetric
    assert one.ternary(weight.detach()).is_symmetric
    assert len(found[1][0].abs().unique()) <= 2


def test_weights_halfway_to_a_level_are_zero():
    """Zero has the fewest bits, and costs no more: also in a group that another weight keeps."""
    weight, level = torch.tensor([[2.0, 0.5], [-0.5, -2.0]]), torch.tensor(1.0)
    for codes in (entropy_groups(weight, level, level, 0.0, 1.0, 2), ec2t(weight, level[None], level[None]).codes[0]):
        assert codes.tolist() == [[1, 0], [0, -1]]
