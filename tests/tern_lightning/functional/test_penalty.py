"""The clipped group penalty against brute force and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional.penalty import shrink_groups, weight_penalty, weight_penalty_gradient
from tests.properties import examples


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


def test_groups_at_the_threshold_are_not_shrunk():
    weight = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    assert torch.equal(shrink_groups(weight, 0.2, (1, 1), 1.0), weight)
