"""Masks: whose part keeps what, and weights of several terms."""

import pytest
import torch
from torch import nn

from tern_lightning.functional import twn
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.weight_mask import WeightMask, mask_of, masks, prune, weight_mask
from tern_lightning.quantizers import get_quantizer


def weight(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_layer_and_gradient():
    state = LayerState(get_quantizer("multilevel"), 0, "ternary", mask=WeightMask())
    latent = weight(5, 12).requires_grad_()
    limit = torch.randint(0, 3, latent.shape, generator=torch.Generator().manual_seed(1)).to(torch.int8)
    state.mask.set("me", limit)
    state.mask.set("other", torch.arange(60).reshape(5, 12) % 7 != 0)
    values = state.values(latent)
    assert torch.equal(values, state.ternary(latent.detach()).dequantize())
    assert torch.equal(state.mask.keep, (limit > 0) & (torch.arange(60).reshape(5, 12) % 7 != 0))
    values.backward(slope := weight(5, 12, seed=3))
    assert torch.equal(latent.grad, slope * state.mask.keep)
    assert not state.ternary(latent).codes[1][limit < 2].any()
    # A method of one term knows kept and pruned only.
    single = LayerState(get_quantizer("twn"), 0, "ternary", mask=state.mask)
    assert torch.equal(single.ternary(latent).codes[0], twn(latent.detach(), mask=state.mask.keep).codes[0])


def test_masks_take_int8_parts():
    layer = nn.Linear(3, 2)
    prune(layer, torch.tensor([[2, 1, 0], [2, 2, 2]], dtype=torch.int8), "a")
    prune(layer, torch.tensor([[1, 2, 2], [2, 2, 0]], dtype=torch.int8), "b")
    assert weight_mask(layer).limit.tolist() == [[1, 1, 0], [2, 2, 0]]
    assert mask_of(layer).tolist() == [[True, True, False], [True, True, False]]
    assert not layer.weight[~mask_of(layer)].any()
    prune(layer, None, "a")
    prune(layer, None, "b")
    assert weight_mask(layer).limit is None
    with pytest.raises(TypeError, match="bool or int8"):
        prune(layer, torch.ones(2, 3), "a")


def test_masks_of_ones_own(make_net):
    net = make_net()
    keep = torch.rand(8, 150) > 0.5
    prune(net.hidden, keep)
    assert torch.equal(net.hidden.weight != 0, keep)
    assert set(masks(net)) == {"hidden"}
    with pytest.raises(ValueError, match=r"keep must have the weight's shape \(8, 150\), got \(2, 2\)"):
        prune(net.hidden, torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(TypeError, match="keep must be bool"):
        prune(net.hidden, torch.ones(8, 150))
