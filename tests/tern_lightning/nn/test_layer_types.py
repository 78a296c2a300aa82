import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tern_lightning import TernaryCallback, register_layer
from tern_lightning.nn import layer_types as kinds
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.swap import swap as make_ternary
from tern_lightning.nn.ternary_layers import ternary_layers
from tern_lightning.quantizers import get_quantizer


class Conv1D(nn.Module):
    """Its weight is inputs by outputs. Known by the name that it has in the transformers package, without import."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], -1)


class GraphLinear(nn.Module):
    """Not derived from nn.Linear, as in the torch_geometric package."""

    __module__, __qualname__ = "torch_geometric.nn.dense.linear", "Linear"

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.register_parameter("bias", None)

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class Mixer(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.mix, self.shift = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return x @ self.mix + self.shift


@pytest.fixture
def registry(monkeypatch):
    """Types registered in a test are forgotten after it."""
    monkeypatch.setattr(kinds, "_KINDS", dict(kinds._KINDS))


@pytest.fixture
def foreign(registry):
    register_layer(Mixer, weight="mix", channel_axis=1, bias="shift")


def channel_levels(weight, axis):
    """The method ``absmean`` in numpy, a level for each output channel."""
    rows = np.moveaxis(weight.astype(np.float64), axis, 0)
    level = np.abs(rows).mean(1, keepdims=True)
    return np.moveaxis(np.clip(np.round(rows / level), -1, 1) * level, 0, axis)


@pytest.mark.parametrize(
    ("cls", "name", "axis"), [(Conv1D, "weight", 1), (GraphLinear, "weight", 0), (Mixer, "mix", 1)]
)
def test_foreign_layers_compute_with_their_ternary_weight(cls, name, axis, foreign):
    torch.manual_seed(0)
    layer = cls(6, 6)
    plain, x = cls(6, 6), torch.randn(3, 6)
    latent = getattr(layer, name).detach().numpy().copy()
    assert kinds.channel_axis(layer) == axis
    state = LayerState(get_quantizer("absmean", per_channel=True), kinds.channel_axis(layer), "ternary")
    make_ternary(layer, state)
    expected = channel_levels(latent, axis)
    np.testing.assert_allclose(layer.state_dict()[name].numpy(), expected, rtol=1e-5)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), plain(x))
    layer(x).square().sum().backward()
    plain(x).square().sum().backward()
    assert torch.equal(getattr(layer, name).grad, getattr(plain, name).grad)
    assert list(layer.state_dict()) == list(plain.state_dict())


def test_a_network_of_foreign_layers_trains_and_says_so(foreign, fit, make_net):
    net = make_net()
    net.extra = nn.Sequential(Mixer(3, 6), Conv1D(6, 6), GraphLinear(6, 3))
    body = net.forward
    net.forward = lambda x: body(x) + net.extra(body(x))
    callback = TernaryCallback(freeze=0.5)
    fit(callback, net=net, max_epochs=2)
    found = ternary_layers(net)
    assert {"extra.0", "extra.1"} <= set(found)
    for path, weight in ((p, found[p].ternary().dequantize()) for p in ("extra.0", "extra.1")):
        assert len(weight.unique()) <= 3, path
    assert next(d for d in callback.decisions if d.path == "extra.2").reason == "last layer"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"type": Mixer(2, 2)}, TypeError, "type must be a subclass of Module"),
        ({"type": int}, TypeError, "type must be a subclass of Module"),
        ({"type": Mixer, "weight": "a.b"}, ValueError, "name of a parameter"),
        ({"type": Mixer, "channel_axis": -1}, ValueError, "channel_axis must be >= 0"),
    ],
)
def test_wrong_registrations(arguments, error, words, registry):
    with pytest.raises(error, match=words):
        register_layer(**arguments)
