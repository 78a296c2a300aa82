"""Recurrent modules with ternary weights: against plain modules that hold the same values."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import tern_lightning as tl
from tern_lightning.nn.layer_types import weight_layers, weight_of
from tern_lightning.nn.operations import module_operations
from tern_lightning.nn.recurrent_layers import TernaryRecurrent
from tern_lightning.nn.recurrent_weights import layer_at, weights_of
from tern_lightning.nn.swap import make_plain
from tern_lightning.nn.ternary_layers import ternary_layers
from tern_lightning.nn.weight_mask import masks, prune

KINDS = [nn.LSTM, nn.GRU, nn.RNN]


class Tagger(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.first = nn.Linear(4, 9)
        self.rnn = kind(9, 7, 2, bidirectional=True, batch_first=True)
        self.last = nn.Linear(14, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.rnn(self.first(x))[0])


def ternary_by_hand(weight: torch.Tensor) -> torch.Tensor:
    """TWN (2016): zero below 0.7 times the mean magnitude, one level for what is left."""
    threshold = 0.7 * weight.abs().mean()
    keep = weight.abs() > threshold
    return weight.sign() * keep * weight.abs()[keep].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_computes_with_the_ternary_form_of_every_weight(kind):
    net, plain, x = Tagger(kind), Tagger(kind), torch.randn(2, 5, 4)
    plain.load_state_dict(net.state_dict())
    for name, value in plain.rnn.named_parameters():
        if name.startswith("weight"):
            value.data = ternary_by_hand(value.data)
    decisions = tl.ternarize(net, "twn", options={"per_channel": False})
    assert [one.path for one in decisions if one.method] == [f"rnn.{name}" for name in weights_of(net.rnn)]
    assert len(weights_of(net.rnn)) == 8
    torch.testing.assert_close(net(x), plain(x))


def test_gradients_reach_the_latent_weights_and_the_state_dict_is_that_of_the_module():
    net, x = Tagger(), torch.randn(2, 5, 4)
    keys = list(net.state_dict())
    tl.ternarize(net, "twn")
    latent = net.rnn.weight_hh_l1_reverse.clone()
    net(x).square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in net.parameters())
    state = net.state_dict()
    assert list(state) == keys
    assert len(state["rnn.weight_hh_l1_reverse"].unique()) == 3
    assert torch.equal(net.rnn.weight_hh_l1_reverse, latent)
    other = Tagger()
    other.load_state_dict(state)
    torch.testing.assert_close(other(x), net(x))


def test_copies_pickles_and_plain_modules_compute_the_same():
    net, x = Tagger(nn.GRU), torch.randn(2, 5, 4)
    tl.ternarize(net, "absmean")
    wanted = net(x)
    for made in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), tl.to_plain(net)):
        assert torch.equal(made(x), wanted)
    twin = copy.deepcopy(net)
    assert isinstance(twin.rnn, TernaryRecurrent)
    assert all(layer.owner is twin.rnn for layer in weights_of(twin.rnn).values())
    make_plain(net)
    assert type(net.rnn) is nn.GRU
    assert torch.equal(net(x), wanted)
    assert not ternary_layers(net)


def test_a_loaded_state_is_used_as_it_is():
    net, x = Tagger(), torch.randn(2, 5, 4)
    tl.ternarize(net, "twn")
    other = Tagger()
    tl.ternarize(other, "twn")
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(x), net(x))
    assert torch.equal(other.rnn.weight_ih_l0, net.state_dict()["rnn.weight_ih_l0"])


def test_other_parameters_by_functional_call():
    net, x = Tagger(nn.RNN), torch.randn(2, 5, 4)
    tl.ternarize(net, "twn")
    twice = {name: 2 * value for name, value in net.named_parameters()}
    plain = tl.to_plain(net)
    wanted = torch.func.functional_call(plain, {name: 2 * value for name, value in plain.named_parameters()}, (x,))
    torch.testing.assert_close(torch.func.functional_call(net, twice, (x,)), wanted)


def test_masks_and_rules():
    net, x = Tagger(), torch.randn(2, 5, 4)
    keep = torch.rand(28, 7) > 0.5
    prune(layer_at(net, "rnn.weight_hh_l0"), keep)
    decisions = {one.path: one for one in tl.ternarize(net, rules=[tl.Rule("rnn", None), tl.Rule("*", "twn")])}
    assert all(one.method is None for path, one in decisions.items() if path.startswith("rnn"))
    tl.ternarize(net, rules=[tl.Rule("*hh*", "twn", type="LSTM")])
    net(x)
    assert list(masks(net)) == ["rnn.weight_hh_l0"]
    assert not net.state_dict()["rnn.weight_hh_l0"][~keep].any()


def test_layers_are_named_by_their_parameters():
    net = Tagger()
    named = dict(net.named_parameters())
    for path, layer in weight_layers(net):
        assert weight_of(layer) is named[path if path in named else f"{path}.weight"]
    with pytest.raises(RuntimeError, match="weight_ih_l0 is a weight of LSTM"):
        layer_at(net, "rnn.weight_ih_l0")(torch.zeros(1))
    with pytest.raises(AttributeError):
        layer_at(net, "rnn.weight_ih_l7")


def test_operations_of_every_step():
    net = Tagger(nn.GRU)
    found = module_operations(net, torch.randn(3, 5, 4))
    assert found["rnn.weight_ih_l1"].multiplies == 5 * 21 * 14
    assert found["rnn.weight_hh_l0_reverse"].multiplies == 5 * 21 * 7
