"""Callbacks of the clipped group penalty."""

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tern_lightning import TernaryCallback
from tern_lightning.callbacks.penalty import StructuredPruning, WeightPenaltyClipping
from tern_lightning.functional.patterns import group_norms
from tern_lightning.functional.penalty import shrink_groups, weight_penalty_gradient
from tern_lightning.nn.ternary_layers import effective_weight
from tern_lightning.nn.weight_mask import mask_of
from tern_lightning.schedules import Schedule
from tests.tern_lightning.training_nets import Net, Save
from tests.tern_lightning.training_runs import assert_same, everything

LAYERS = ("body.0", "body.3", "hidden")


class Frozen(Net):
    """A loss without gradient in ``hidden``, so that only the penalty moves it."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1]) * 0


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
@pytest.mark.parametrize("form", ["gradient", "proximal"])
def test_once_per_optimizer_step(form, options, fit, make_net):
    net = make_net(Frozen, optimizer="sgd", lr=0.1)
    net.configure_optimizers = lambda: torch.optim.SGD(net.parameters(), 0.1)
    weight = net.hidden.weight.detach().clone()
    own = WeightPenaltyClipping(0.05, 1.0, (2, 2), form, include=("hidden",))
    trainer, _ = fit(own, net=net, max_epochs=1, **options)
    steps = 4 // options.get("accumulate_grad_batches", 1)
    assert trainer.global_step == steps
    for _ in range(steps):
        if form == "gradient":
            weight = weight - 0.1 * 0.05 * weight_penalty_gradient(weight, (2, 2), 1.0)
        else:
            weight = shrink_groups(weight, 0.1 * 0.05, (2, 2), 1.0)
    torch.testing.assert_close(net.hidden.weight.detach(), weight)


def test_the_gradient_is_the_loss_gradient_plus_the_penalty(fit, make_net):
    class Look(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.grad = pl_module.hidden.weight.grad.clone()

    looks = []
    for strength in (0.0, 0.1):
        look = Look()
        own = WeightPenaltyClipping(strength, 0.8, (2, 5))
        fit(TernaryCallback(verbose=False), own, look, max_steps=1)
        looks.append(look.grad)
    start = make_net().hidden.weight.detach()
    torch.testing.assert_close(looks[1] - looks[0], 0.1 * weight_penalty_gradient(start, (2, 5), 0.8))


def test_small_groups_shrink_and_large_ones_keep_their_size(fit, make_net, record):
    net = make_net(Frozen, optimizer="sgd")
    net.configure_optimizers = lambda: torch.optim.SGD(net.parameters(), 0.1)
    before = group_norms(net.hidden.weight.detach(), (2, 5))
    fit(WeightPenaltyClipping(0.02, 0.9, (2, 5), schedule=Schedule("constant", 0.0)), net=net, logger=record)
    after = group_norms(net.hidden.weight.detach(), (2, 5))
    large = before >= 0.9 * before.mean()
    assert (after[large] == before[large]).all()
    assert (after[~large] < before[~large]).all()
    values = [value for (name, _), value in record.values.items() if name == "penalty/clipping"]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)


def structured(**options):
    return StructuredPruning(
        (2, 3), **{"strength": 2.0, "dead": 0.2, "prune": 0.4, "form": "proximal", "threshold": 1.0, **options}
    )


def test_groups_die_and_stay_dead(fit, record):
    _, net = fit(TernaryCallback("sws", verbose=False, freeze=0.8), structured(), logger=record)
    assert record.values["pruning/pruned", 3] == 0
    assert 0 < record.values["pruning/pruned", 11] == record.values["pruning/pruned", 19] < 1
    assert record.values["pruning/groups", 19] >= record.values["pruning/pruned", 19] * 0.9
    for path in LAYERS:
        layer = net.get_submodule(path)
        axis = 1 if path == "body.3" else 0
        norms = group_norms(mask_of(layer).float(), (2, 3), axis)
        full = group_norms(torch.ones_like(mask_of(layer).float()), (2, 3), axis)
        assert ((norms == 0) | (norms == full)).all()
        assert not effective_weight(layer)[~mask_of(layer)].any()


def test_a_given_amount(fit):
    _, net = fit(structured(amount=0.5, strength=0.0))
    pruned = sum(int((~mask_of(net.get_submodule(path))).sum()) for path in LAYERS)
    assert pruned / sum(net.get_submodule(path).weight.numel() for path in LAYERS) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("form", ["gradient", "proximal"])
def test_resume(form, fit, make_net, tmp_path):
    def callbacks():
        return [TernaryCallback("sws", verbose=False, freeze=0.8, bn_batches=2), structured(form=form)]

    trainer, net = fit(*callbacks(), Save(tmp_path))
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    for name in ("step3", "step9", "val1", "step17"):
        other = make_net()
        nn.init.ones_(other.hidden.weight)
        trainer, net = fit(*callbacks(), net=other, ckpt_path=tmp_path / f"{name}.ckpt")
        assert_same(everything(trainer, net, tmp_path / "again.ckpt"), expected, name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1.0}, "strength"),
        ({"threshold": 0.0}, "threshold"),
        ({"group": (0, 1)}, "group"),
        ({"form": "l1"}, "form"),
        ({"delta_mode": "some"}, "delta_mode"),
    ],
)
def test_errors(options, message):
    for kind in (WeightPenaltyClipping, StructuredPruning):
        with pytest.raises(ValueError, match=message):
            kind(**options)
    with pytest.raises(ValueError, match="dead"):
        StructuredPruning(dead=1.0)
