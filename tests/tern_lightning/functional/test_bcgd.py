"""Coarse activations and the blended weight, by their published formulas."""

import pytest
import torch
from torch import nn

from tern_lightning.functional.bcgd import blend, coarse_activation, gaussian_step
from tern_lightning.nn.learned_input import CoarseInput


def test_blend():
    weight, quantized = torch.tensor([1.0, -2.0]), torch.tensor([1.5, -1.5])
    torch.testing.assert_close(blend(weight, quantized, 0.1), torch.tensor([1.05, -1.95]))
    assert torch.equal(blend(weight, quantized, 0.0), weight)


def test_activation_values():
    x = torch.tensor([-1.0, 0.0, 0.01, 0.5, 0.51, 1.0, 1.4, 1.6, 9.0])
    found = coarse_activation(x, torch.tensor(0.5), 2)
    assert found.tolist() == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.5, 1.5, 1.5]


@pytest.mark.parametrize(("derivative", "slope"), [("exact", 3.0), ("mean", 2.0), ("two", 0.0)])
def test_the_top_level_itself_is_inside_and_zero_is_not(derivative, slope):
    x, step = torch.tensor([0.0, 1.5], requires_grad=True), torch.tensor(0.5, requires_grad=True)
    coarse_activation(x, step, 2, derivative).sum().backward()
    assert (x.grad.tolist(), step.grad.item()) == ([0.0, 1.0], slope)


@pytest.mark.parametrize(("derivative", "inside"), [("exact", [1.0, 2.0]), ("mean", [2.0, 2.0]), ("two", [0.0, 0.0])])
def test_the_three_coarse_derivatives(derivative, inside):
    x = torch.tensor([-1.0, 0.2, 0.8, 7.0], requires_grad=True)
    step = torch.tensor(0.5, requires_grad=True)
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    (coarse_activation(x, step, 2, derivative) * weights).sum().backward()
    assert x.grad.tolist() == [0.0, 10.0, 100.0, 0.0]
    assert step.grad.item() == 10 * inside[0] + 100 * inside[1] + 1000 * 3
    if derivative == "exact":
        with torch.no_grad():
            values = [(coarse_activation(x, step + h, 2) * weights).sum().item() for h in (1e-3, -1e-3)]
        assert step.grad.item() == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-3)


@pytest.mark.parametrize(("bits", "step"), [(1, 1.2221), (2, 0.6511), (4, 0.1946)])
def test_initial_steps(bits, step):
    assert gaussian_step(bits) == pytest.approx(step, abs=0.006)
    hook = CoarseInput(bits, "mean")
    hook.observing = True
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).relu() * 3
    assert hook(nn.Linear(1, 1), (x,)) is None
    hook.start(hook.statistic)
    assert hook.value.item() == pytest.approx(3 * step, rel=0.02)
