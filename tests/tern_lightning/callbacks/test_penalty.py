"""The clipped group penalty against brute force and finite differences, and its callbacks."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tern_lightning import TernaryCallback
from tern_lightning.callbacks.penalty import StructuredPruning, WeightPenaltyClipping
from tern_lightning.functional.patterns import group_norms
from tern_lightning.functional.penalty import shrink_groups, weight_penalty, weight_penalty_gradient
from tern_lightning.nn.ternary_layers import effective_weight
from tern_lightning.nn.weight_mask import mask_of
from tern_lightning.schedules import Schedule
from tests.properties import examples
from tests.tern_lightning.training_nets import Net, Save
from tests.tern_lightning.training_runs import assert_same, everything

LAYERS = ("body.0", "body.3", "hidden")


def numpy_penalty(weight, po, pi, share, mode, delta=None):
    norms = []
    for o in range(0, weight.shape[0], po):
        for i in range(0, weight.shape[1], pi):
            norms.append(np.sqrt((weight[o : o + po, i : i + pi] ** 2).sum()))
    norms = np.array(norms)
    if delta is None:
        delta = share * (norms.mean() if mode == "all" else norms[norms > 0].mean())
    return np.minimum(norms, delta).sum(), delta


@examples(25)
@given(st.integers(1, 3), st.integers(1, 3), st.floats(0.2, 1.5), st.sampled_from(["all", "alive"]), st.integers(0, 99))
def test_value_and_gradient_by_finite_differences(po, pi, share, mode, seed):
    random = np.random.default_rng(seed)
    weight = random.normal(size=(4, 5, 2, 1)) * random.uniform(0.01, 1, size=(4, 5, 1, 1))
    weight[:po, :pi] = 0.0
    expected, delta = numpy_penalty(weight, po, pi, share, mode)
    tensor = torch.tensor(weight, requires_grad=True)
    found = weight_penalty(tensor, (po, pi), share, mode)
    assert found.item() == pytest.approx(expected)
    slope = weight_penalty_gradient(tensor.detach(), (po, pi), share, mode).numpy()
    assert not slope[:po, :pi].any()
    # The threshold is a constant of the gradient.
    for index in [(3, 4, 0, 0), (2, 2, 1, 0), (0, 4, 0, 0), (3, 0, 1, 0)]:
        if weight[index] == 0:
            continue
        values = []
        for step in (1e-6, -1e-6):
            moved = weight.copy()
            moved[index] += step
            values.append(numpy_penalty(moved, po, pi, share, mode, delta)[0])
        assert slope[index] == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-4)


def test_proximal_step_solves_its_problem():
    weight = torch.tensor([[0.3, 0.4, 3.0], [0.05, 0.0, 4.0]], dtype=torch.float64)
    found = shrink_groups(weight, 0.2, (1, 1), 1.0)
    for w, x in zip(weight.flatten().tolist(), found.flatten().tolist(), strict=True):
        grid = np.linspace(-5, 5, 100001)
        delta = weight.abs().mean().item()
        best = grid[np.argmin((grid - w) ** 2 / 2 + 0.2 * np.abs(grid))] if abs(w) < delta else w
        assert x == pytest.approx(best, abs=1e-3)


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
