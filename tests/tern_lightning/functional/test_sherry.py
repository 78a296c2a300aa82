"""Sherry's pattern of three weights in four."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional import arenas, sherry
from tern_lightning.quantizers import get_quantizer

seeds = st.integers(0, 2**32 - 1)


def gauss(seed, shape=(6, 40)):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


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
