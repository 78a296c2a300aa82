"""Thresholds trained in a pass of their own: against finite differences, by hand, without a trace, resumed."""

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tern_lightning import ActivationQuantization, TernaryCallback, TernaryTensor
from tern_lightning.nn.ternary_layers import effective_weight, swapped_layers
from tests.tern_lightning.integration.test_composition import LAYERS, NoNorm, Shared
from tests.tern_lightning.training_nets import Net, Record, Save, samples
from tests.tern_lightning.training_runs import assert_same, everything


def tga(two_pass=True, rate=1.0, start=0, freeze=None, **options):
    own = {"two_pass": two_pass, "rate": rate, "gradient_limit": None, **options}
    return TernaryCallback("tga", None, own, start, freeze, bn_batches=2, verbose=False)


def quantizers(net):
    return {path: layer._ternary_state.quantizer for path, layer in swapped_layers(net)}


class Watch(pl.Callback):
    """Thresholds and gradients just before the weights move."""

    def __init__(self):
        self.thresholds, self.grads = [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.thresholds.append({path: q.trained["threshold"].item() for path, q in quantizers(module).items()})
        self.grads.append({name: p.grad.clone() for name, p in module.named_parameters()})


class FixedCodes:
    """Lets a quantizer keep its codes while the threshold moves: the level alone has a gradient."""

    def __init__(self, layer):
        self.quantizer, self.codes = layer._ternary_state.quantizer, layer.ternary().codes
        self.assign = self.quantizer._assign

    def __enter__(self):
        def assign(*arguments):
            found = self.assign(*arguments)
            return TernaryTensor(self.codes, found.positive, found.negative, found.channel_axis)

        self.quantizer._assign = assign

    def __exit__(self, *_):
        del self.quantizer._assign


def test_first_step_is_that_of_the_equations(fit, make_net):
    """The threshold moves by finite differences of the loss, and the weights' gradient is taken at the new one.

    Without batch normalization, before which a level's gradient is zero.
    """
    x, y = (part[:8] for part in samples())
    watch = Watch()
    fit(tga(initial_threshold=0.4), watch, net=make_net(NoNorm, optimizer="sgd"), max_steps=1)
    found, grads = watch.thresholds[0], watch.grads[0]

    net = make_net(NoNorm, optimizer="sgd")
    fit(tga(initial_threshold=0.4), net=net, max_steps=0)  # the layers become ternary, nothing is trained
    net.train()
    for layer in (layers := dict(swapped_layers(net))).values():
        layer._ternary_state.phase = "ternary"
        layer._ternary_state.quantizer.begin(layer.weight, layer._ternary_state.channel_axis)
        layer._ternary_state.quantizer.two_pass = False
    for path, layer in layers.items():
        threshold, losses = layer._ternary_state.quantizer.trained["threshold"].data, []
        start = threshold.item()
        with FixedCodes(layer), torch.no_grad():
            for value in (1.05 * start, 0.95 * start):
                threshold.fill_(value)
                losses.append(F.cross_entropy(net(x), y).double().item())
            threshold.fill_(start)
        slope = (losses[0] - losses[1]) / (0.1 * start)
        # The first step of gradient descent with Nesterov momentum 0.9.
        assert found[path] - start == pytest.approx(-1.9 * net.hparams.lr * slope, rel=0.03)
    for path, layer in layers.items():
        layer._ternary_state.quantizer.trained["threshold"].data.fill_(found[path])
    F.cross_entropy(net(x), y).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-5, atol=1e-7, msg=name)


class Dropout(Net):
    """Takes random numbers, counts passes."""

    def __init__(self, **options):
        super().__init__(**options)
        self.body.append(nn.Dropout(0.3))
        self.passes = 0

    def training_step(self, batch, batch_idx):
        self.passes += 1
        return super().training_step(batch, batch_idx)


def test_with_still_thresholds_it_is_single_pass_training(fit, make_net):
    """The first pass leaves no trace: random numbers, running statistics, observed ranges and logs are the same."""
    runs = []
    for two_pass in (False, True):
        activations, net, record = ActivationQuantization(observe_batches=3), make_net(Dropout), Record()
        fit(activations, tga(two_pass, rate=1e-30), net=net, max_epochs=3, logger=record)
        assert net.passes == 12 * (1 + two_pass)
        state = {"net": dict(net.state_dict()), "random": torch.get_rng_state(), "ranges": activations.state_dict()}
        runs.append({**state, "logged": record.values})
    assert_same(*runs)


def test_both_ways_learn(fit, make_net):
    found = {}
    for two_pass in (False, True):
        trainer, net = fit(tga(two_pass), net=make_net(optimizer="sgd"), max_epochs=15)
        found[two_pass] = {path: q.trained["threshold"].item() for path, q in quantizers(net).items()}
        assert all(p.grad is None for q in quantizers(net).values() for p in q.parameters())
        assert trainer.callback_metrics["train_loss"] < 0.9
    assert all(found[True][path] != found[False][path] for path in found[True])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_resumed_runs_are_equal(precision, fit, make_net, tmp_path):
    def callback():
        return tga(start=1, freeze=3)

    trainer, net = fit(callback(), Save(tmp_path), precision=precision)
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    for step in (2, 6, 11, 14):
        other = make_net()
        nn.init.ones_(other.hidden.weight)
        again, net = fit(callback(), net=other, ckpt_path=tmp_path / f"step{step}.ckpt", precision=precision)
        assert_same(everything(again, net, tmp_path / "again.ckpt"), expected)


def test_two_processes_train_what_one_does(fit, make_net):
    one, two = (make_net(NoNorm, optimizer="sgd") for _ in range(2))
    fit(tga(), net=one, loader=Shared, max_epochs=3)
    split = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
    fit(tga(), net=two, loader=Shared, max_epochs=3, **split)
    for path in LAYERS:
        expected, found = effective_weight(one.get_submodule(path)), two.get_submodule(path).weight.detach()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_where_it_cannot_be(fit, make_net):
    with pytest.raises(MisconfigurationException, match="gradients are accumulated"):
        fit(tga(), accumulate_grad_batches=2)
    net = make_net()
    net.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match="optimizes by hand"):
        fit(tga(), net=net)
