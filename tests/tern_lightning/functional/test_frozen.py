"""Levels of fixed codes: their gradient, their fit, and that they do not depend on memory."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning import functional
from tern_lightning.functional.frozen import FrozenCodes, frozen_levels, pseudoinverse
from tern_lightning.functional.multilevel import multilevel
from tern_lightning.quantizers import get_quantizer
from tern_lightning.ternary_tensor import TernaryTensor


def test_the_gradient_of_frozen_levels_is_a_projection():
    torch.manual_seed(0)
    weight = torch.randn(5, 7, requires_grad=True)
    codes = multilevel(weight.detach(), 2).codes
    gradient = torch.randn(5, 7)
    frozen_levels(weight, codes).dequantize().backward(gradient)
    basis = codes.flatten(1).double().numpy().T
    projector = basis @ np.linalg.pinv(basis)
    np.testing.assert_allclose(weight.grad.flatten().numpy(), projector @ gradient.flatten().numpy(), atol=1e-5)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_the_closed_pseudoinverse_is_the_general_one(columns, n, seed):
    basis = torch.from_numpy(np.random.default_rng(seed).integers(-1, 2, (5, columns, n))).double()
    gram = basis @ basis.mT
    torch.testing.assert_close(pseudoinverse(gram), torch.linalg.pinv(gram, hermitian=True), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("per_channel", [False, True])
def test_levels_do_not_depend_on_where_the_weight_lies(per_channel):
    weight = torch.randn(7, 1000)
    codes = (torch.randint(0, 3, weight.shape) - 1).to(torch.int8)
    expected = frozen_levels(weight, codes, per_channel=per_channel).positive
    for offset in range(1, 20):
        moved = torch.empty(weight.numel() + offset)[offset:].view_as(weight).copy_(weight)
        assert torch.equal(frozen_levels(moved, codes, per_channel=per_channel).positive, expected)


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


def test_levels_have_the_precision_of_the_weight():
    weight = torch.tensor([[1.0, -3.0, 0.2, 1.3]])
    codes = torch.tensor([[[1, -1, 0, 1]]], dtype=torch.int8)
    found = FrozenCodes.of(codes)
    mean = torch.tensor(5.3 / 3)
    assert found.values(weight)[0, 0].item() == pytest.approx(mean.item())
    half = weight.bfloat16()
    level = (half.float() * codes[0]).sum() / 3
    assert found.values(half)[0].tolist() == [level.bfloat16().item() * code for code in (1, -1, 0, 1)]


def test_values_use_the_memory_of_the_step_before():
    weight = torch.randn(300, 300)
    frozen = FrozenCodes.of(torch.sign(weight)[None].to(torch.int8), per_channel=True)
    found = frozen.values(weight)
    place = found.data_ptr()
    del found
    others = [torch.empty(300, 300) for _ in range(3)]  # what the allocator has
    assert frozen.values(weight).data_ptr() == place
    assert all(one.data_ptr() != place for one in others)


def test_each_of_several_levels_has_the_precision_of_the_weight():
    weight = torch.randn(30, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    codes = multilevel(weight.float(), 2).codes
    frozen = FrozenCodes.of(codes, per_channel=True)
    levels = frozen.levels(weight.float()).positive[..., None]
    whole, rounded = ((codes * one).sum(0).bfloat16() for one in (levels, levels.bfloat16().float()))
    assert not torch.equal(whole, rounded)
    assert torch.equal(frozen.values(weight), rounded)
