"""Presets as callbacks: every one trains, and says what is missing."""

import dataclasses
import warnings

import lightning.pytorch as pl
import pytest
import torch

import tern_lightning
from examples.models import ResNet18
from tern_lightning import LowRank, ReturnToBest, Rule, TernaryCallback
from tern_lightning.nn.ternary_layers import ternary_layers
from tern_lightning.nn.weight_mask import mask_of
from tests.tern_lightning.training_nets import Loader

LAYERS = {"stem", "body.0", "body.3", "hidden", "head"}


INNER = {"body.0", "body.3", "hidden"}


@pytest.mark.parametrize("name", tern_lightning.presets())
def test_every_preset_trains(name, fit):
    one = tern_lightning.preset(name)
    start = one.start if isinstance(one.start, int) else 0.25
    callbacks = dataclasses.replace(one, start=start, freeze=1 if one.freeze else None).callbacks(verbose=False)
    for callback in callbacks:
        for attribute, value in (("bn_batches", 1), ("end", start), ("first", 0)):
            if hasattr(callback, attribute):
                setattr(callback, attribute, value)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="preset")
        trainer, net = fit(*callbacks, max_epochs=2)
    assert torch.isfinite(trainer.callback_metrics["train_loss"])
    if one.method is None:  # a pruning or low ranks alone
        assert not ternary_layers(net)
        low_rank = any(isinstance(callback, LowRank) for callback in callbacks)
        assert low_rank or any(mask_of(layer) is not None for layer in net.modules())
        with pytest.raises(ValueError, match=rf"preset '{name}' has no ternary weights; use .*callbacks"):
            TernaryCallback.from_preset(name)
        return
    expected = {"inner": INNER, "all": LAYERS, "convolutions": {"stem", "body.0"} | INNER}[one.layers]
    assert set(ternary_layers(net)) == expected
    method = net.hidden._ternary_state.quantizer
    assert type(method) is type(tern_lightning.quantizers.get_quantizer(one.method))
    assert {key: getattr(method, key) for key in one.options} == one.options


def test_options_and_rules_override(fit):
    own = TernaryCallback.from_preset(
        "sws-cifar10", {"beta": 0.2}, [Rule("hidden"), Rule("*", "sws", options={"beta": 0.3})], verbose=False
    )
    _, net = fit(own, max_epochs=1)
    assert set(ternary_layers(net)) == LAYERS - {"hidden"}
    own = TernaryCallback.from_preset("sws-cifar10", {"beta": 0.2}, freeze=0.5, verbose=False)
    assert own.freeze == 0.5
    _, net = fit(own, max_epochs=1)
    quantizer = net.stem._ternary_state.quantizer
    assert (quantizer.beta, quantizer.ste_clip) == (0.2, 1.0)


def test_shortcuts_of_ec2t_stay_float(make_trainer):
    net = ResNet18(10)
    plain = pl.LightningModule()
    plain.net, plain.configure_optimizers = net, lambda: torch.optim.SGD(net.parameters(), 0.1)
    plain.training_step = lambda batch: net(batch).sum()
    callbacks = tern_lightning.preset("ec2t-cifar100").callbacks(verbose=False)
    trainer = make_trainer(*(one for one in callbacks if not isinstance(one, ReturnToBest)), max_steps=1)
    trainer.fit(plain, torch.randn(1, 2, 3, 32, 32))
    paths = set(ternary_layers(net))
    assert len(paths) == 16  # two convolutions in each of eight blocks
    assert not any("downsample" in path for path in paths)


def test_missing_companions_are_named(fit):
    with pytest.warns(
        UserWarning, match="preset .ec2t-cifar10. is a TernaryCallback and EntropyConstraint, ReturnToBest"
    ):
        fit(TernaryCallback.from_preset("ec2t-cifar10", verbose=False), max_epochs=1)


def test_command_line_configuration(command_line):
    cli = command_line(
        """
        - class_path: tern_lightning.TernaryCallback.from_preset
          init_args: {name: ec2t-cifar100, freeze: 0.5, options: {floor: 0.5}, verbose: false}
        - class_path: tern_lightning.EntropyConstraint
          init_args: {strength: 0.15}
        - class_path: tern_lightning.ReturnToBest
        """
    )
    own = next(c for c in cli.trainer.callbacks if isinstance(c, TernaryCallback))
    assert own.preset.name == "ec2t-cifar100"
    assert own.options == {"initial_level": 0.45, "floor": 0.5, "rate": 0.1}
    cli.trainer.fit(cli.model, Loader(), Loader(batch=16))
    assert ternary_layers(cli.model)["hidden"]._ternary_state.quantizer.strength == pytest.approx(0.15)
