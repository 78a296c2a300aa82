"""Layers become ternary by exchanging their class, and get it back."""

import torch
from torch import nn

from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.swap import swap, unswap
from tern_lightning.nn.ternary_layers import swapped_layers
from tern_lightning.quantizers import get_quantizer
from tests.tern_lightning.nn.test_ternary_layers import SameConv, make


def test_unswap_gives_the_class_back():
    layer, _ = make("own forward")
    latent = layer.weight.detach().clone()
    model = nn.Sequential(layer)
    assert [path for path, _ in swapped_layers(model)] == ["0"]
    unswap(layer)
    assert type(layer) is SameConv
    assert torch.equal(layer.weight, latent)
    assert vars(layer).keys() == vars(SameConv(4, 6, 3)).keys()
    assert not layer._forward_pre_hooks


def test_fused_transformer_layers_do_not_bypass_the_ternary_weight():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), 2)
    for layer in encoder.layers:
        for linear in (layer.linear1, layer.linear2):
            swap(linear, LayerState(get_quantizer("twn"), 0, "ternary"))
    plain = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), 2)
    plain.load_state_dict(encoder.state_dict())
    x, padding = torch.randn(3, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])
    with torch.no_grad():
        for arguments in ({}, {"src_key_padding_mask": padding}):
            found, expected = encoder.eval()(x, **arguments), plain.eval()(x, **arguments)
            kept = ~padding if arguments else torch.ones(3, 5, dtype=torch.bool)
            torch.testing.assert_close(found[kept], expected[kept])
