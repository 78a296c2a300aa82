"""Surrogate Lagrangian relaxation: its math by brute force and by hand."""

import itertools

import numpy as np
import pytest
import torch

from tern_lightning.functional.slr import SETTINGS, Relaxation, lagrangian, penalty_gradient, relax, step_factor


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


def test_weights_in_the_set_leave_multipliers_and_step_finite():
    w0, z0 = torch.tensor([1.0, 0.2]), torch.tensor([1.0, 0.0])
    found = relax(Relaxation.begin([w0], [z0], 0.5), [z0], 3.0, lambda v: (z0,), 0.1, m=10.0, r=0.1)
    assert torch.equal(found.multipliers[0], torch.zeros(2))
    assert found.step == pytest.approx(0.5 * (1 - 1 / 10))


def test_the_settings_are_the_published_ones():
    """Sparse weights: rho 0.1, M 300, r 0.1 and a first step of 0.01; ternary ones: rho 0.01, M 500, r 0.05."""
    settings = {kind: (one.rho, one.step, one.m, one.r) for kind, one in SETTINGS.items()}
    assert settings == {"sparsity": (0.1, 0.01, 300.0, 0.1), "ternary": (0.01, 1e-3, 500.0, 0.05)}
