"""Surrogate Lagrangian relaxation: its math by brute force, and the callback."""

import itertools
import math

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tern_lightning import TernaryCallback, TernaryTensor
from tern_lightning.callbacks.slr import SLR
from tern_lightning.functional.projection import ternary_projection
from tern_lightning.functional.slr import Relaxation, lagrangian, penalty_gradient, relax, step_factor
from tern_lightning.nn.weight_mask import mask_of
from tests.tern_lightning.training_nets import Net, Save
from tests.tern_lightning.training_runs import assert_same, everything

LAYERS = ("body.0", "body.3", "hidden")


class Quadratic:
    """1/2 (w - t)' H (w - t) with the exact minimizer of the penalized problem."""

    def __init__(self, seed, n=6):
        random = torch.Generator().manual_seed(seed)
        a = torch.randn(n, n, generator=random, dtype=torch.float64)
        self.h = a @ a.T / n + 0.5 * torch.eye(n, dtype=torch.float64)
        self.t = torch.randn(n, generator=random, dtype=torch.float64)

    def __call__(self, w):
        return float(0.5 * (w - self.t) @ self.h @ (w - self.t))

    def on(self, support):
        """The best point whose other coordinates are zero."""
        support = list(support)
        w = torch.zeros_like(self.t)
        if support:
            w[support] = torch.linalg.solve(self.h[support][:, support], (self.h @ self.t)[support])
        return w

    def run(self, project, rho, step, rounds, m=300.0):
        w = self.t.clone()
        state = Relaxation.begin([w], project((w,)), step)
        eye = torch.eye(len(w), dtype=torch.float64)
        for _ in range(rounds):
            right = self.h @ self.t + rho * state.targets[0] - state.multipliers[0]
            w = torch.linalg.solve(self.h + rho * eye, right)
            state = relax(state, [w], self(w), project, rho, m)
        return w, state


def test_a_convex_set_gives_the_constrained_optimum():
    for seed in range(6):
        problem = Quadratic(seed)
        feasible = [problem.on(s) for k in range(7) for s in itertools.combinations(range(6), k)]
        best = min(problem(w) for w in feasible if (w >= -1e-12).all())
        w, state = problem.run(lambda v: (v[0].clamp_min(0),), rho=2.0, step=0.3, rounds=400, m=10.0)
        assert torch.dist(w, state.targets[0]) < 1e-3
        assert problem(state.targets[0]) == pytest.approx(best, abs=1e-4)


def test_sparse_weights_are_no_worse_than_pruning_at_once_and_reach_their_set():
    def keep(v):
        return (v[0] * (v[0].abs() >= v[0].abs().sort(descending=True).values[2]),)

    excess = {"slr": 0.0, "magnitude": 0.0}
    for seed in range(12):
        problem = Quadratic(seed)
        best = min(problem(problem.on(s)) for s in itertools.combinations(range(6), 3))
        w, state = problem.run(keep, rho=2.0, step=0.1, rounds=300)
        assert torch.dist(w, state.targets[0]) < 0.05
        for name, point in (("slr", w), ("magnitude", problem.t)):
            support = torch.nonzero(keep((point,))[0]).flatten().tolist()
            excess[name] += problem(problem.on(support)) - best
    assert 0 <= excess["slr"] < excess["magnitude"]


def test_one_round_by_hand():
    w0, z0 = torch.tensor([1.0, 0.2]), torch.tensor([1.0, 0.0])
    state = Relaxation.begin([w0], [z0], 0.5)
    w = torch.tensor([0.9, 0.4])
    found = relax(state, [w], 3.0, lambda v: (v[0] * torch.tensor([1.0, 0.0]),), 0.1, m=10.0, r=0.1)
    first = (1 - 1 / 10) * 0.5 * np.linalg.norm([0, 0.2]) / np.linalg.norm([-0.1, 0.4])
    multiplier = first * np.array([-0.1, 0.4])
    z = np.array([0.9 + multiplier[0] / 0.1, 0.0])
    a2 = 1 - 1 / (10 * 2 ** (1 - 1 / 2**0.1))
    second = a2 * first * np.linalg.norm([-0.1, 0.4]) / np.linalg.norm(np.array([0.9, 0.4]) - z)
    multiplier += second * (np.array([0.9, 0.4]) - z)
    np.testing.assert_allclose(found.multipliers[0].numpy(), multiplier, rtol=1e-5)
    np.testing.assert_allclose(found.targets[0].numpy(), z, rtol=1e-5)
    assert (found.count, found.loss_before) == (3, 3.0)
    assert found.step == pytest.approx(second, rel=1e-5)
    # A higher Lagrangian keeps the multipliers of the first step out.
    again = relax(found, [w], 100.0, lambda v: (found.targets[0],), 0.1, m=10.0, r=0.1)
    assert torch.equal(again.multipliers[0], found.multipliers[0])
    assert again.count == found.count


def test_the_weights_before_are_copies():
    w = torch.ones(3, requires_grad=True)
    state = relax(Relaxation.begin([w], [torch.zeros(3)], 0.1), [w], 1.0, lambda v: (torch.zeros(3),), 0.1)
    with torch.no_grad():
        w.add_(1)
    assert not torch.equal(state.weights_before[0], w)
    assert torch.equal(state.weights_before[0], torch.ones(3))


def test_the_step_shrinks_and_the_gradient_is_that_of_the_lagrangian():
    factors = [step_factor(k, 300.0, 0.1) for k in range(1, 50)]
    assert factors == sorted(factors)
    assert factors[0] == pytest.approx(1 - 1 / 300)
    assert all(0 < factor < 1 for factor in factors)
    w, z, x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slope = penalty_gradient(w, z, x, 0.3)
    for i in range(5):
        step = torch.zeros(5, dtype=torch.float64)
        step[i] = 1e-6
        up, down = (lagrangian(0.0, [w + s], [z], [x], 0.3) for s in (step, -step))
        assert slope[i].item() == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_ternary_projection_with_mask_and_channels():
    v = torch.tensor([[1.0, -1.2, 0.1], [10.0, 0.2, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = ternary_projection(v, per_channel=True, mask=mask)
    assert found.codes[0].tolist() == [[1, -1, 0], [1, 0, 0]]
    assert found.positive[0].tolist() == pytest.approx([1.1, 10.0])


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
