"""Choices of weights against brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional import twn
from tern_lightning.functional.patterns import (
    digit_sizes,
    expand_groups,
    group_norms,
    group_sizes,
    keep_digits,
    keep_largest,
    keep_n_of_m,
)
from tern_lightning.functional.residual import residual_terms
from tests.properties import examples

SHAPES = st.sampled_from([(5, 7), (4, 6, 3), (3, 5, 2, 2), (6, 1, 3, 3)])


def blocks(shape, group, axis, kernel):
    """All groups as lists of indices."""
    channels = [range(shape[axis]), range(shape[1 - axis])]
    found = {}
    for index in np.ndindex(*shape):
        outer = index[axis] // group[0], index[1 - axis] // group[1], () if kernel else index[2:]
        found.setdefault(outer, []).append(index)
    assert len(channels) == 2
    return found


@examples(40)
@given(SHAPES, st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 1), st.integers(0, 99))
def test_group_norms_and_back(shape, po, pi, kernel, axis, seed):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    norms = group_norms(weight, (po, pi), axis, kernel)
    spread = expand_groups(norms, shape, (po, pi), axis, kernel)
    sizes = expand_groups(group_sizes(shape, (po, pi), axis, kernel), shape, (po, pi), axis, kernel)
    for members in blocks(shape, (po, pi), axis, kernel).values():
        values = np.array([weight[i].item() for i in members])
        for index in members:
            assert spread[index].item() == pytest.approx(np.sqrt((values**2).sum()), rel=1e-5)
            assert sizes[index].item() == len(members)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_pattern_of_a_convolution_is_that_of_every_tap(axis):
    weight = torch.randn(6, 7, 3, 5)
    found = keep_n_of_m(weight, 1, 4, axis)
    for y, x in np.ndindex(3, 5):
        assert torch.equal(found[..., y, x], keep_n_of_m(weight[..., y, x], 1, 4, axis))


@examples(40)
@given(st.floats(0, 1), st.integers(0, 99))
def test_keep_largest_over_several_layers(amount, seed):
    random = torch.Generator().manual_seed(seed)
    weights = [torch.randn(3, 4, generator=random), torch.randn(2, 3, 2, generator=random)]
    kept = [torch.rand(3, 4, generator=random) > 0.3, None]
    found = keep_largest(weights, amount, kept)
    values = np.concatenate([(weights[0] * kept[0]).abs().flatten().numpy(), weights[1].abs().flatten().numpy()])
    flags = np.concatenate([one.flatten().numpy() for one in found])
    assert (~flags).sum() == max(round(amount * 24), int((~kept[0]).sum()))
    assert not (found[0] & ~kept[0]).any()
    if flags.any() and not flags.all():
        assert values[flags].min() >= values[~flags].max()


def test_blocks_are_pruned_whole_and_by_their_mean_square():
    weight = torch.randn(5, 6, 3, 3, generator=torch.Generator().manual_seed(1))
    keep = keep_largest([weight], 0.5, groups=[((2, 4), 0, True)])[0]
    scores = {}
    for key, members in blocks((5, 6, 3, 3), (2, 4), 0, True).items():
        flags = {bool(keep[i]) for i in members}
        assert len(flags) == 1
        scores[key] = np.mean([weight[i].item() ** 2 for i in members]), flags.pop(), len(members)
    pruned = [size for _, kept, size in scores.values() if not kept]
    assert sum(pruned) <= 135 < sum(pruned) + min(size for s, k, size in scores.values() if k)
    assert max(s for s, k, _ in scores.values() if not k) < min(s for s, k, _ in scores.values() if k)


@pytest.mark.parametrize("axis", [0, 1])
def test_n_of_m_keeps_the_best_subset(axis):
    weight = torch.randn(6, 6, 2, generator=torch.Generator().manual_seed(2))
    keep = keep_n_of_m(weight, 2, 4, axis)
    rows, flags = weight.movedim(axis, 0), keep.movedim(axis, 0)
    for o, position, start in itertools.product(range(6), range(2), (0, 4)):
        part, chosen = rows[o, start : start + 4, position].abs(), flags[o, start : start + 4, position]
        size = min(2, len(part))
        assert int(chosen.sum()) == size
        best = max(part[list(c)].sum() for c in itertools.combinations(range(len(part)), size))
        assert part[chosen].sum().item() == pytest.approx(best.item())


def test_n_of_m_distinguishes_small_weights_and_keeps_pruned_ones_pruned():
    weight = torch.tensor([[1e-9, 2e-9, 3e-9, 4e-9]])
    assert keep_n_of_m(weight, 1, 4).tolist() == [[False, False, False, True]]
    kept = torch.tensor([[True, True, True, False]])
    assert keep_n_of_m(weight, 1, 4, kept=kept).tolist() == [[False, False, True, False]]


def test_errors():
    with pytest.raises(ValueError, match=r"amount must be in \[0, 1\], got 1.5"):
        keep_largest([torch.ones(2, 2)], 1.5)
    with pytest.raises(ValueError, match="n:m"):
        keep_n_of_m(torch.ones(2, 2), 5, 4)
    with pytest.raises(ValueError, match="output and input channels"):
        group_norms(torch.ones(4), (1, 1))


def weight(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_order_is_that_of_a_sorted_list():
    """Against sorting all digits one by one: pruned ones, then terms from the last, then magnitudes."""
    random = np.random.default_rng(0)
    for trial in range(30):
        sizes = [torch.from_numpy(random.random((terms, 3, 4)).astype(np.float32)) for terms in (3, 1, 2)]
        limits = [torch.from_numpy(random.integers(0, len(s) + 1, s.shape[1:]).astype(np.int8)) for s in sizes]
        amount = trial / 29
        found = keep_digits(sizes, amount, limits)
        total = sum(size.numel() for size in sizes)
        digits = sorted(
            (limit[i, j].item() > t, -t, size[t, i, j].item(), w, t, i, j)
            for w, (size, limit) in enumerate(zip(sizes, limits, strict=True))
            for t in range(len(size))
            for i in range(3)
            for j in range(4)
        )
        expected = [limit.clone() for limit in limits]
        for *_, w, t, i, j in digits[: round(amount * total)]:
            expected[w][i, j] = min(expected[w][i, j].item(), t)
        for own, right in zip(found, expected, strict=True):
            assert torch.equal(own, right)
    with pytest.raises(ValueError, match="amount must be"):
        keep_digits([weight(2, 3, 4).abs()], 1.5)


def test_sizes_are_those_of_residuals():
    w = weight(6, 20)
    found = residual_terms(w, 3, twn)
    rest = w.numpy()
    for t, size in enumerate(digit_sizes(w, found)):
        np.testing.assert_allclose(size.numpy(), abs(rest), atol=1e-6)
        rest = rest - found.positive[t].item() * found.codes[t].numpy()
