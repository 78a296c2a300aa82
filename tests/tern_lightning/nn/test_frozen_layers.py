"""Layers of frozen codes that need no gradient of their weight: they train as those that have one."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import tern_lightning
from tern_lightning import Rule
from tern_lightning.nn import frozen_layers
from tern_lightning.nn.ternary_layers import TernaryLayer

LAYERS = {
    "linear": (lambda: nn.Linear(24, 10), (5, 24)),
    "one vector": (lambda: nn.Linear(24, 10), (24,)),
    "tokens": (lambda: nn.Linear(24, 10, bias=False), (2, 3, 24)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 11)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), bias=False), (2, 4, 9, 8)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 9, 8)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), (2, 6, 9, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2), (2, 2, 4, 3, 3)),
}
OTHERS = {
    "same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), (2, 4, 9, 8)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 9, 8)),
    "without a batch": (lambda: nn.Conv2d(4, 6, 3), (4, 9, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), (2, 4, 9, 8)),
}


@pytest.fixture
def taken(monkeypatch):
    """Layers that were computed without the gradient of their weight."""
    found, usual = [], frozen_layers.run
    monkeypatch.setattr(frozen_layers, "run", lambda *given: (found.append(given), usual(*given))[1])
    return found


def everywhere(net, method="twn", **options):
    """Make all layers of a network ternary, with frozen codes."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    tern_lightning.ternarize(net, method, [Rule("*", method, options=options)], optimizer=optimizer)
    tern_lightning.freeze(net)


def frozen(make, method="twn", **options):
    torch.manual_seed(1)
    layer = make()
    everywhere(nn.Sequential(layer), method, **options)
    with torch.no_grad():  # as momentum may leave it
        layer.weight.add_(0.01 * torch.randn_like(layer.weight))
    return layer


def step(layer, x, scale=1.0):
    """Output and all gradients of a loss that is not linear."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (scale * (y.sin().sum() + y.square().mean())).backward()
    return [y.detach(), x.grad, *(one.grad for one in layer.parameters())]


def usual(monkeypatch, call, *given):
    with monkeypatch.context() as patch:
        patch.setattr(frozen_layers, "possible", lambda *_: False)
        return call(*given)


@pytest.mark.parametrize("name", [*LAYERS, *OTHERS])
def test_gradients_are_those_of_the_weight(name, taken, monkeypatch):
    make, shape = {**LAYERS, **OTHERS}[name]
    layer = frozen(make)
    other, x = copy.deepcopy(layer), torch.randn(shape)
    got, wanted = step(layer, x), usual(monkeypatch, step, other, x)
    assert len(taken) == (name in LAYERS)
    for have, want in zip(got, wanted, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)


def test_channels_last(taken, monkeypatch):
    layer = frozen(lambda: nn.Conv2d(8, 8, 1))
    x = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last)
    other = copy.deepcopy(layer)
    for have, want in zip(step(layer, x), usual(monkeypatch, step, other, x), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)
    assert len(taken) == 1


def test_a_level_of_zero_still_has_its_gradient(taken, monkeypatch):
    layer = frozen(lambda: nn.Linear(24, 10))
    with torch.no_grad():
        layer.weight.zero_()
    other, x = copy.deepcopy(layer), torch.randn(5, 24)
    got, wanted = step(layer, x)[2], usual(monkeypatch, step, other, x)[2]
    assert len(taken) == 1
    assert wanted.abs().max() > 0.01
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_without_any_code(taken):
    layer = frozen(lambda: nn.Linear(24, 10))
    layer._ternary_state.codes = torch.zeros_like(layer._ternary_state.codes)
    assert not step(layer, torch.randn(5, 24))[2].any()
    assert len(taken) == 1


def test_a_second_derivative(taken, monkeypatch):
    """That of the gradient's norm, as networks that judge others are trained."""

    def penalty(layer, x):
        x = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(layer(x).sin().sum(), x, create_graph=True)
        grad.square().sum().backward()
        return layer.weight.grad

    layer = frozen(lambda: nn.Linear(24, 10))
    other, x = copy.deepcopy(layer), torch.randn(5, 24)
    got, wanted = penalty(layer, x), usual(monkeypatch, penalty, other, x)
    assert len(taken) == 1
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    (grad,) = torch.autograd.grad(layer(x.requires_grad_()).sin().sum(), x, create_graph=True, retain_graph=True)
    assert grad.requires_grad
    y = layer(x).sin().sum()
    with torch.no_grad():
        layer.weight.add_(1)
    torch.autograd.grad(y, x, retain_graph=True)
    with pytest.raises(RuntimeError, match="changed between forward and backward"):
        torch.autograd.grad(y, x, create_graph=True)


def test_what_follows_may_write_into_the_output(taken, monkeypatch):
    net = nn.Sequential(nn.Linear(24, 24), nn.ReLU(inplace=True), nn.Linear(24, 24), nn.ReLU(inplace=True))
    everywhere(net)
    other, x = copy.deepcopy(net), torch.randn(5, 24)
    for have, want in zip(step(net, x), usual(monkeypatch, step, other, x), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)
    assert len(taken) == 2


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_forward_that_runs_again_for_backward(reentrant, taken, monkeypatch):
    layer = frozen(lambda: nn.Linear(24, 24))
    other, x = copy.deepcopy(layer), torch.randn(5, 24)

    def again(x):
        return checkpoint(layer, x, use_reentrant=reentrant)

    again.parameters = layer.parameters
    for have, want in zip(step(again, x), usual(monkeypatch, step, other, x), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)
    assert taken


def test_a_derivative_by_torch_func(taken):
    layer = frozen(lambda: nn.Linear(6, 4))
    x = torch.randn(3, 6, requires_grad=True)
    wanted = layer.ternary().dequantize().sum(0).expand(3, 6)
    torch.testing.assert_close(torch.func.grad(lambda x: layer(x).sum())(x), wanted)
    assert not taken


def test_only_where_nothing_is_lost(taken):
    x = torch.randn(5, 24, requires_grad=True)
    for method, options in (("twn", {"per_channel": True}), ("ttq", {}), ("multilevel", {})):
        step(frozen(lambda: nn.Linear(24, 10), method, **options), x.detach())
    layer = frozen(lambda: nn.Linear(24, 10))
    layer(x.detach())
    with torch.no_grad():
        layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    frozen(lambda: nn.Linear(24, 10, dtype=torch.float64))(x.double())
    layer.weight.requires_grad_(False)
    layer(x)
    assert not taken


def test_a_forward_of_ones_own_is_called(taken):
    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    layer = frozen(lambda: Doubled(24, 10))
    assert isinstance(layer, TernaryLayer)
    x = torch.randn(5, 24, requires_grad=True)
    torch.testing.assert_close(layer(x), 2 * (x @ layer.ternary().dequantize().T + layer.bias))
    assert not taken


def test_training_goes_the_same_way(taken, monkeypatch):
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    everywhere(net)
    other = copy.deepcopy(net)
    x, y = torch.randn(32, 1, 8, 8), torch.randint(0, 4, (32,))

    def train(net):
        optimizer = torch.optim.Adam(net.parameters(), 1e-2, weight_decay=0.01)
        for _ in range(20):
            loss = nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return [loss.detach(), *net.state_dict().values()]

    for have, want in zip(train(net), usual(monkeypatch, train, other), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-4)
    assert len(taken) == 2 * 20
