"""Hessian traces and Hestia's temperatures."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tern_lightning import TernaryCallback
from tern_lightning.functional.hestia import GAUSSIAN_TEMPERATURE, temperature_factors
from tern_lightning.hessian import hessian_traces, hestia_rules
from tern_lightning.nn.ternary_layers import swapped_layers
from tests.tern_lightning.training_nets import samples

LAYERS = ["body.0", "body.3", "hidden"]


def test_traces_of_a_quadratic_form():
    """Two weights that depend on each other: the traces are those of the diagonal blocks."""
    random = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=random, dtype=torch.float64)
    matrix = root @ root.T
    a, b = torch.randn(2, 3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    a.requires_grad_(), b.requires_grad_()
    both = torch.cat([a.flatten(), b])
    found = hessian_traces(both @ matrix @ both / 2, {"a": a, "b": b}, probes=4000)
    assert found["a"] == pytest.approx(matrix[:6, :6].trace().item(), rel=0.05)
    assert found["b"] == pytest.approx(matrix[6:, 6:].trace().item(), rel=0.05)
    with pytest.raises(ValueError, match="probes"):
        hessian_traces(both.sum(), {"a": a}, probes=0)


def test_traces_of_a_network(make_net):
    """Against the whole Hessian by automatic differentiation."""
    net, (x, y) = make_net().eval(), samples(8)
    head = net.head.weight.detach().clone()
    features = F.relu(net.hidden(net.body(F.relu(net.stem(x))).flatten(1))).detach()

    def loss(weight):
        return F.cross_entropy(F.linear(features, weight, net.head.bias.detach()), y)

    whole = torch.autograd.functional.hessian(loss, head).reshape(head.numel(), head.numel())
    found = hessian_traces(F.cross_entropy(net(x), y), {"head": net.head.weight}, probes=2000)
    assert found["head"] == pytest.approx(whole.trace().item(), rel=0.05)


def test_factors_are_the_formula():
    traces = [0.3, 2.0, 5.0, 400.0]
    logs = np.log(traces)
    z = (logs - logs.mean()) / logs.std()
    np.testing.assert_allclose(temperature_factors(traces, 0.4, 2.0), np.exp(-0.4 / (1 + np.exp(-2 * z))), rtol=1e-6)
    assert temperature_factors([3.0, 3.0]) == pytest.approx([math.exp(-0.2)] * 2)
    assert all(math.isfinite(factor) for factor in temperature_factors([-1.0, 0.0, 1.0]))


def test_training_with_the_temperatures(fit, make_net):
    net, (x, y) = make_net(), samples(8)
    net.eval()
    rules = hestia_rules(net, lambda: F.cross_entropy(net(x), y), probes=5)
    assert [rule.name.replace("\\", "") for rule in rules] == [f"re:{path}" for path in LAYERS]
    net.train()
    trainer, _ = fit(TernaryCallback("hestia", rules, verbose=False), net=net, max_epochs=3)
    temperatures = [layer._ternary_state.quantizer.temperature for _, layer in swapped_layers(net)]
    assert temperatures == [rule.options["temperature"] for rule in rules]
    assert len(set(temperatures)) == 3
    assert all(math.exp(-0.4) < t / GAUSSIAN_TEMPERATURE < 1 for t in temperatures)
    assert torch.isfinite(trainer.callback_metrics["train_loss"])
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
