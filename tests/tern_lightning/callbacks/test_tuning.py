"""The learning rate finder sees the network that is trained."""

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner

from tern_lightning import TernaryCallback
from tern_lightning.nn.ternary_layers import TernaryLayer
from tests.tern_lightning.training_nets import Loader, Net


class Seen(Net):
    """Remembers whether a layer computed with three values, and its latent weight, in every step."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def training_step(self, batch, batch_idx):
        layer = self.hidden
        ternary = isinstance(layer, TernaryLayer) and layer._ternary_state.phase != "float"
        self.seen.append((ternary, layer.weight.detach().clone()))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("method", ["twn", "ttq"])
def test_the_search_is_on_the_ternary_network_and_leaves_no_trace(method, fit, make_net):
    net, plain = make_net(Seen), make_net(Seen)
    before = net.hidden.weight.detach().clone()
    finder = LearningRateFinder(num_training_steps=8, early_stop_threshold=None, update_attr=False, attr_name="lr")
    fit(TernaryCallback(method, verbose=False), finder, net=net)
    fit(TernaryCallback(method, verbose=False), net=plain)
    assert len(net.seen) == 8 + 20
    assert all(ternary for ternary, _ in net.seen)
    assert not torch.equal(net.seen[7][1], before)
    assert torch.equal(net.seen[8][1], before)
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_tuner(make_net, make_trainer):
    net = make_net(Seen)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    trainer = make_trainer(TernaryCallback(verbose=False))
    found = Tuner(trainer).lr_find(net, Loader(), num_training=10, early_stop_threshold=None, update_attr=False)
    assert len(found.results["loss"]) == 10
    assert all(ternary for ternary, _ in net.seen)
    assert all(torch.equal(value, before[name]) for name, value in net.named_parameters())
    trainer.fit(net, Loader())
    assert trainer.global_step == 20


def test_a_later_start_is_said(fit, make_net):
    net = make_net(Seen)
    finder = LearningRateFinder(num_training_steps=5, early_stop_threshold=None, update_attr=False, attr_name="lr")
    with pytest.warns(UserWarning, match="searches for the float network, because start=2"):
        fit(TernaryCallback(start=2, verbose=False), finder, net=net)
    assert not any(ternary for ternary, _ in net.seen[:5])
