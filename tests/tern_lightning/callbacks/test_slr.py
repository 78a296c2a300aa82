"""Surrogate Lagrangian relaxation in the Trainer."""

import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tern_lightning import TernaryCallback, TernaryTensor
from tern_lightning.callbacks.slr import SLR
from tern_lightning.functional.projection import ternary_projection
from tern_lightning.nn.weight_mask import mask_of
from tests.tern_lightning.training_nets import Net, Save
from tests.tern_lightning.training_runs import assert_same, everything

LAYERS = ("body.0", "body.3", "hidden")


def sparse(**options):
    return SLR("sparsity", **{"amount": 0.6, "interval": 2, "end": 0.6, "bn_batches": 2, **options})


def ternary(**options):
    return SLR("ternary", **{"interval": 2, "end": 0.6, "bn_batches": 2, "rho": 1.0, **options})


def test_sparsity_ends_pruned(fit, record):
    own = sparse(rho=1.0)
    _, net = fit(own, logger=record)
    for path in LAYERS:
        layer = net.get_submodule(path)
        assert torch.equal(layer.weight != 0, mask_of(layer))
        assert mask_of(layer).float().mean().item() == pytest.approx(0.4, abs=0.01)
    gaps = [record.values["slr/gap", step] for step in (3, 11)]
    assert gaps[1] < gaps[0]
    assert record.values["slr/updates", 11] > 4
    assert ("slr/gap", 19) not in record.values
    assert all(net.body[i].momentum == 0.1 for i in (1, 4))


@pytest.mark.parametrize("pattern", ["2:4", "block"])
def test_patterns(pattern, fit):
    block = pattern == "block"
    own = sparse(pattern=pattern, amount=0.5 if block else None, group=(2, 2) if block else (1, 1), include=("hidden",))
    _, net = fit(own)
    flags = net.hidden.weight[:, :148] != 0
    if block:
        assert set(flags.unfold(0, 2, 2).unfold(1, 2, 2).sum((2, 3)).unique().tolist()) == {0, 4}
    else:
        assert (flags.unflatten(1, (-1, 4)).sum(2) == 2).all()


def test_the_gradient_has_the_penalty_once_per_step(fit, make_net):
    class Look(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.grad = pl_module.hidden.weight.grad.clone()

    looks = []
    for callbacks in ([], [ternary(rho=0.7, per_channel=True)]):
        look = Look()
        fit(*callbacks, look, max_steps=1, accumulate_grad_batches=2, max_epochs=None)
        looks.append(look.grad)
    start = make_net().hidden.weight.detach()
    expected = 0.7 * (start - ternary_projection(start, per_channel=True).dequantize())
    torch.testing.assert_close(looks[1] - looks[0], expected)


def test_ternary_weights_go_on_in_ternary_training(fit, tmp_path):
    own = ternary()
    trainer, _ = fit(own, TernaryCallback("twn", start=0.6, freeze=None, verbose=False), Save(tmp_path))
    at_end = torch.load(tmp_path / "step13.ckpt", weights_only=True)["state_dict"]
    for path in LAYERS:
        assert TernaryTensor.from_values(at_end[f"{path}.weight"]) is not None
    assert math.isfinite(trainer.callback_metrics["val_loss"])
    fit(ternary(end=0.2, bn_batches=10), TernaryCallback("twn", start=0.2, freeze=0.4, verbose=False, bn_batches=3))
    assert own.done


def test_overlapping_statistics_give_the_momentum_back(fit):
    _, net = fit(ternary(end=0.2, bn_batches=8), TernaryCallback(start=0.2, freeze=0.4, bn_batches=8, verbose=False))
    for i in (1, 4):
        assert net.body[i].momentum == 0.1
        assert "_own_momentum" not in net.body[i].__dict__


def callbacks(kind):
    tern = TernaryCallback("twn", start=0.6, freeze=0.8, verbose=False, bn_batches=1)
    return {
        "sparse": [sparse()],
        "epochs": [sparse(interval=None)],
        "ternary": [ternary(), tern],
        "average": [EMAWeightAveraging(decay=0.7), ternary(), tern],
    }[kind]


@pytest.mark.parametrize("kind", ["sparse", "epochs", "ternary", "average"])
def test_resume(kind, fit, make_net, tmp_path):
    trainer, net = fit(*callbacks(kind), Save(tmp_path))
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    for name in ("step1", "step5", "val1", "epoch2", "step13", "step17"):
        other = make_net()
        nn.init.ones_(other.hidden.weight)
        again, net = fit(*callbacks(kind), net=other, ckpt_path=tmp_path / f"{name}.ckpt")
        assert_same(everything(again, net, tmp_path / "again.ckpt"), expected, name)


def test_ternary_layers_too_early(fit):
    with pytest.raises(MisconfigurationException, match=r"HINT: TernaryCallback\(start=0.6, freeze"):
        fit(ternary(), TernaryCallback(verbose=False))


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


def test_manual_optimization_has_no_loss(fit, make_net):
    with pytest.raises(MisconfigurationException, match="training loss"):
        fit(ternary(), net=make_net(Manual))


@pytest.mark.parametrize(
    "options",
    [
        {"projection": "binary"},
        {"amount": 0.5},
        {"projection": "sparsity", "amount": 2.0},
        {"rho": 0.0},
        {"step": -1.0},
        {"m": 1.0},
        {"r": 1.0},
        {"interval": 0},
        {"end": -1},
        {"group": (2, 2)},
        {"bn_batches": -1},
        {"scope": "none"},
    ],
)
def test_errors(options):
    with pytest.raises(ValueError, match=list(options)[-1]):
        SLR(**options)
