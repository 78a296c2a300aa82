"""Phases, logging, printing, re-estimation of batch normalization, and what is refused."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from tern_lightning import Rule, TernaryCallback, TernaryTensor
from tern_lightning.nn.ternary_layers import swapped_layers
from tern_lightning.quantizers import Quantizer, register
from tern_lightning.quantizers.base import _REGISTRY
from tests.tern_lightning.training_nets import Loader, samples


class Watch(pl.Callback):
    """Notes the phase and the weights before every batch."""

    def __init__(self, watched):
        self.watched, self.phases, self.codes, self.latents = watched, [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        layer = pl_module.hidden
        self.phases.append(self.watched.phase)
        self.latents.append(layer.weight.detach().clone())
        if self.watched.phase != "float":
            self.codes.append(layer.ternary().codes.clone())


def phases(fit, **options):
    trainer_options = {
        k: options.pop(k) for k in ("max_epochs", "max_steps", "accumulate_grad_batches") if k in options
    }
    own = TernaryCallback(verbose=False, **options)
    watch = Watch(own)
    fit(own, watch, **trainer_options)
    return [(name, watch.phases.count(name)) for name in dict.fromkeys(watch.phases)], watch


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [("ternary", 12), ("frozen", 8)]),
        ({"start": 1, "freeze": 3}, [("float", 4), ("ternary", 8), ("frozen", 8)]),
        ({"start": 0.25, "freeze": 0.5}, [("float", 5), ("ternary", 5), ("frozen", 10)]),
        ({"freeze": None}, [("ternary", 20)]),
        ({"start": 0.0, "freeze": 0}, [("frozen", 20)]),
        ({"max_epochs": 1}, [("ternary", 3), ("frozen", 1)]),
        ({"max_epochs": -1, "max_steps": 10, "start": 0.2}, [("float", 2), ("ternary", 4), ("frozen", 4)]),
        ({"max_epochs": 1, "freeze": 0.25, "accumulate_grad_batches": 2}, [("ternary", 2), ("frozen", 2)]),
    ],
)
def test_phases(options, expected, fit):
    assert phases(fit, **options)[0] == expected


def test_codes_move_in_the_ternary_phase_and_levels_go_on_after_the_freeze(fit):
    _, watch = phases(fit)
    assert any(not torch.equal(watch.codes[0], codes) for codes in watch.codes[1:12])
    assert all(torch.equal(watch.codes[12], codes) for codes in watch.codes[12:])
    before = TernaryTensor.from_values(watch.latents[12])
    assert torch.equal(before.codes, watch.codes[12])
    levels = [
        (latent * codes[0]).sum() / codes.abs().sum()
        for latent, codes in zip(watch.latents[12:], watch.codes[12:], strict=True)
    ]
    assert len({level.item() for level in levels}) == 8


def test_a_run_without_end_is_never_frozen(fit):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 3

    own = TernaryCallback(verbose=False)
    fit(own, Stop(), max_epochs=-1)
    assert own.phase == "ternary"
    with pytest.raises(Exception, match=r"start=0.5 is a fraction of a run without end"):
        fit(TernaryCallback(start=0.5, verbose=False), max_epochs=-1)


def test_unequal_levels_are_trained_apart(fit):
    @register("test-unequal")
    class Unequal(Quantizer):
        symmetric = False

        def ternary(self, weight, channel_axis=0):
            codes = (weight.sign() * (weight.abs() > weight.abs().mean() / 2)).to(torch.int8)
            p = weight[codes > 0].mean().reshape(1, 1)
            n = -weight[codes < 0].mean().reshape(1, 1)
            return TernaryTensor(codes[None], p, n, channel_axis)

    try:
        _, net = fit(TernaryCallback("test-unequal", verbose=False))
    finally:
        del _REGISTRY["test-unequal"]
    found = net.hidden.ternary()
    assert not found.is_symmetric
    w = net.hidden.weight.detach()
    assert found.positive.item() == pytest.approx(w[found.codes[0] > 0].mean().item())
    assert found.negative.item() == pytest.approx(-w[found.codes[0] < 0].mean().item())


def test_nothing_to_do_warns(make_trainer):
    class Small(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0].mean((1, 2))).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    net = Small()
    with pytest.warns(UserWarning, match="leaves every layer in float: layer: last layer"):
        make_trainer(TernaryCallback(verbose=False), max_epochs=1).fit(net, Loader())
    assert type(net.layer) is nn.Linear


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "ternary"}, "method must be one of"),
        ({"options": {"beta": 1}}, "options of method 'twn'"),
        ({"start": -1}, "start must be an epoch .* got -1"),
        ({"start": None}, "start must be a number, got None"),
        ({"freeze": 1.5}, r"freeze must be .* or None, got 1.5"),
        ({"freeze": True}, "freeze must be .* got True"),
        ({"freeze": "half"}, "freeze must be .* got 'half'"),
        ({"bn_batches": -1}, "bn_batches must be >= 0, got -1"),
        (
            {"per_channel": True},
            r"no argument 'per_channel'; HINT: .* options={'per_channel': True}\. Its arguments are",
        ),
    ],
)
def test_wrong_arguments(options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        TernaryCallback(**options)


def test_fit_twice_with_other_rules(fit):
    x = samples()[0]
    _, net = fit(TernaryCallback(verbose=False))
    first = net.hidden.weight.detach().clone()
    own = TernaryCallback("sws", rules=[Rule("hidden"), Rule("head", "sws")], start=1, verbose=False)
    watch = Watch(own)
    with pytest.raises(AttributeError):  # the hidden layer has its own class again, which has no ternary()
        fit(own, watch, net=net)
    assert type(net.hidden) is nn.Linear
    assert torch.equal(watch.latents[0], first)
    own = TernaryCallback(verbose=False)
    fit(own, net=net)
    assert [path for path, _ in swapped_layers(net)] == ["body.0", "body.3", "hidden"]
    assert own.phase == "frozen"
    assert net(x).isfinite().all()
    trainer_callback = TernaryCallback(verbose=False)
    trainer, net = fit(trainer_callback, net=net, max_epochs=2)
    trainer.fit_loop.max_epochs = 4
    phase = trainer_callback.phase
    trainer.fit(net, Loader(), Loader())
    assert phase == "frozen" == trainer_callback.phase
