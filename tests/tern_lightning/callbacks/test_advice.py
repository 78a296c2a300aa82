"""What is said about runs that do not give what their callbacks were asked for."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from tern_lightning import Schedule, TernaryCallback
from tern_lightning.callbacks import (
    ActivationQuantization,
    MultiLevelActivation,
    PruningSchedule,
)
from tern_lightning.callbacks import _advice as advice
from tern_lightning.checkpoint import load_module
from tern_lightning.nn.ternary_layers import ternary_layers
from tests.tern_lightning.training_nets import Loader, Net, Save


def ternary(method="twn", **options):
    return TernaryCallback(method, **{"verbose": False, "bn_batches": 2, **options})


class Worse(Net):
    """Validation gets worse in every epoch."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", float(self.current_epoch))


def test_early_stopping_before_a_schedule_is_complete(fit, make_net):
    stop = EarlyStopping("val_loss", patience=1)
    with pytest.warns(
        UserWarning, match=r"before PruningSchedule was done: 5[23]% of the weights are pruned, 58% of its"
    ):
        fit(
            PruningSchedule(0.9, schedule=Schedule("linear", end=0.6), every=1), stop, net=make_net(Worse), max_epochs=5
        )
    with pytest.warns(UserWarning, match=r"before TernaryCallback was done: Hestia still trained softened weights"):
        fit(ternary("hestia"), stop, net=make_net(Worse), max_epochs=5)
    with pytest.warns(UserWarning, match=r"before TernaryCallback was done: start=3 was not reached"):
        fit(ternary(start=3, freeze=4), EarlyStopping("val_loss", patience=1), net=make_net(Worse), max_epochs=5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*training ended at epoch")
        fit(ternary("hestia"), PruningSchedule(0.9, every=1), net=make_net(Worse), max_epochs=5)


def test_best_checkpoint_of_the_float_phase(fit, make_net, tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)
    with pytest.warns(UserWarning, match=r"best checkpoint by 'val_loss', .* is from the float phase: .*'last'"):
        trainer, net = fit(ternary(start=1), best, net=make_net(Worse))
    trainer.test(net, Loader(), ckpt_path="best", verbose=False)
    assert not ternary_layers(net)
    best = ModelCheckpoint(tmp_path, monitor="val_loss", mode="max")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is from the float phase")
        fit(ternary(start=1), best, net=make_net(Worse))


def test_best_checkpoint_before_pruning_is_complete(fit, make_net, tmp_path):
    def run(**how):
        pruning = PruningSchedule(0.8, schedule=Schedule("linear", end=0.5), every=1)
        fit(ternary(), pruning, ModelCheckpoint(tmp_path, **how), net=make_net(Worse), max_epochs=4)

    with pytest.warns(
        UserWarning, match=r"'val_loss', .* is from before pruning was complete: .* fewer zeros than 80%"
    ):
        run(monitor="val_loss")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*before pruning was complete")
        run(monitor="val_loss", mode="max")
        run()


@pytest.mark.parametrize("rounding", [lambda: ActivationQuantization(bits=3), MultiLevelActivation])
def test_a_checkpoint_without_its_rounding(rounding, fit, make_net, make_trainer, tmp_path):
    _, net = fit(ternary(), rounding(), Save(tmp_path))
    path, data = tmp_path / "epoch4.ckpt", Loader()
    name = type(rounding()).__name__
    with pytest.warns(UserWarning, match=f"was trained with {name}, and this Trainer computes without the rounding"):
        make_trainer(ternary()).test(make_net(), data, ckpt_path=path, verbose=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*without the rounding")
        expected = make_trainer().test(net, data, verbose=False)
        found = make_trainer(ternary(), rounding()).test(make_net(), data, ckpt_path=path, verbose=False)
    assert found[0]["val_loss"] == pytest.approx(expected[0]["val_loss"], rel=1e-4)
    with pytest.warns(UserWarning, match=f"rounded by {name}, and the loaded network computes without"):
        load_module(path, Net)
    plain = make_net()
    plain.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    with pytest.warns(UserWarning, match=f"{name} rounds nothing"):
        make_trainer(rounding()).test(plain, data, verbose=False)


@pytest.mark.parametrize("mode", [True, False])
def test_training_in_evaluation_mode_is_said(fit, make_net, mode):
    net = make_net().train(mode)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(TernaryCallback(start=0), net=net, max_epochs=1)
    told = [str(one.message) for one in said if "evaluation mode" in str(one.message)]
    # Lightning before 2.6 puts modules into training mode itself.
    assert len(told) == (0 if mode or net.training else 1)
    assert all("net.train()" in text for text in told)


@pytest.mark.parametrize(("method", "warns"), [("spawn", 1), ("fork", 1), ("popen", 0)])
def test_processes_that_bring_back_weights_alone(method, warns, recwarn):
    strategy = DDPStrategy(start_method=method, cluster_environment=LightningEnvironment())
    strategy._configure_launcher()
    advice.of_spawned_processes(SimpleNamespace(strategy=strategy))
    assert len([one for one in recwarn if "bring back weights alone" in str(one.message)]) == warns
