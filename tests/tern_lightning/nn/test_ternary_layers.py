import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.layer_types import channel_axis
from tern_lightning.nn.swap import swap
from tern_lightning.nn.ternary_layers import TernaryLayer, freeze, ternary_layers
from tern_lightning.quantizers import Quantizer, get_quantizer
from tern_lightning.ternary_tensor import TernaryTensor


class SameConv(nn.Conv2d):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias, self.stride)


KINDS = {
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), (2, 4, 5)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "transposed3d": (lambda: nn.ConvTranspose3d(2, 3, 2), (1, 2, 3, 3, 3)),
    "own forward": (lambda: SameConv(4, 6, 3, stride=2), (2, 4, 7, 7)),
}


def make(kind, phase="ternary", **options):
    torch.manual_seed(0)
    build, shape = KINDS[kind]
    layer = build()
    state = LayerState(get_quantizer("absmean", **options), channel_axis(layer))
    swap(layer, state).weight.requires_grad_()
    state.phase = "ternary"
    if phase == "frozen":
        freeze(layer)
    state.phase = phase
    return layer, torch.randn(shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", ["float", "ternary", "frozen"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_forward_uses_the_ternary_weight_and_state_dict_holds_it(kind, phase, per_channel):
    layer, x = make(kind, phase, per_channel=per_channel)
    plain = KINDS[kind][0]()
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), plain(x))
    assert layer.state_dict().keys() == plain.state_dict().keys()
    assert isinstance(layer.weight, nn.Parameter)
    assert layer.weight.is_leaf
    assert layer.state_dict(keep_vars=True)["weight"] is layer.weight
    assert [name for name, _ in layer.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert not list(layer.children())
    if phase == "float":
        assert torch.equal(plain.weight, layer.weight)
        with pytest.raises(ValueError, match="not ternary"):
            layer.ternary()
    else:
        assert torch.equal(layer.ternary().dequantize(), plain.weight)
        assert layer.ternary().channel_axis == channel_axis(plain)
        assert TernaryTensor.from_values(plain.weight, channel_axis(plain)) is not None
    layer(x).square().sum().backward()
    plain(x).square().sum().backward()
    if phase == "frozen":
        codes = layer.ternary().codes[0]
        torch.testing.assert_close(
            (layer.weight.grad * codes).sum(), (plain.weight.grad * codes).sum(), rtol=1e-3, atol=1e-3
        )
    else:
        assert torch.equal(layer.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("phase", ["ternary", "frozen"])
def test_copies(copied, phase):
    layer, x = make("own forward", phase)
    other = copied(nn.Sequential(layer))[0]
    assert isinstance(other, SameConv)
    assert isinstance(other, TernaryLayer)
    assert torch.equal(other(x), layer(x))
    with torch.no_grad():
        other.weight.mul_(2)
    assert torch.equal(other(x), layer(x)) is False
    assert other._ternary_state is not layer._ternary_state


def test_loaded_values_are_used_as_they_are_until_training_goes_on():
    layer, x = make("conv2d")
    values = layer.ternary().dequantize()
    requantized = get_quantizer("absmean").ternary(values).dequantize()
    assert not torch.equal(values, requantized)
    layer.load_state_dict({"weight": values, "bias": layer.bias.detach()})
    with torch.no_grad():
        expected = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), values, layer.bias)
        assert torch.equal(layer.eval()(x), expected)
        assert torch.equal(layer.train()(x), expected)
    assert torch.equal(layer.state_dict()["weight"], values)
    assert torch.equal(layer.ternary().dequantize(), values)
    assert list(ternary_layers(nn.Sequential(layer))) == ["0"]
    trained = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), requantized, layer.bias)
    assert torch.equal(layer.train()(x), trained)


def test_weight_can_be_replaced_and_forward_recovers_from_errors():
    layer, x = make("linear")
    with pytest.raises(RuntimeError):
        layer(x[:, :2])
    layer.weight = nn.Parameter(torch.eye(5, 6))
    assert isinstance(layer.weight, nn.Parameter)
    assert torch.equal(layer.ternary().codes[0], torch.eye(5, 6, dtype=torch.int8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    layer, _ = make("linear")
    layer.to(dtype)
    weight = layer.state_dict()["weight"]
    assert weight.dtype == dtype
    assert torch.equal(layer.ternary().dequantize().to(dtype), weight)
    assert layer(torch.randn(2, 6, dtype=dtype)).dtype == dtype


def test_methods_run_in_float32_under_autocast():
    layer, x = make("linear")
    expected = layer.ternary()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert torch.equal(layer.ternary().positive, expected.positive)
        assert torch.equal(y, F.linear(x, expected.dequantize(), layer.bias))


@pytest.mark.parametrize("phase", ["ternary", "frozen"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(phase, backend):
    layer, x = make("own forward", phase)
    model = nn.Sequential(layer, nn.ReLU())
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    y = model(x)
    y.sum().backward()
    expected, layer.weight.grad = layer.weight.grad, None
    again = compiled(x)
    again.sum().backward()
    assert torch.equal(again, y)
    assert torch.equal(layer.weight.grad, expected)
    layer._ternary_state.phase = "float"
    assert torch.equal(compiled(x), model(x))
    torch._dynamo.reset()


@pytest.mark.parametrize("strict", [True, False])
def test_export(strict):
    layer, x = make("own forward")
    model = nn.Sequential(layer, nn.ReLU()).eval()
    exported = torch.export.export(model, (x,), strict=strict).module()
    torch.testing.assert_close(exported(x), model(x))


@pytest.mark.parametrize("per_channel", [False, True])
def test_several_terms_are_frozen_at_their_values(per_channel):
    class Two(Quantizer):
        def ternary(self, weight, channel_axis=0):
            large = weight.sign() * (weight.abs() > 0.2)
            codes = torch.stack([weight.sign(), large]).to(torch.int8)
            levels = torch.tensor([[0.1], [0.2]])
            return (
                TernaryTensor(codes, levels, levels).per_channel
                if self.per_channel
                else TernaryTensor(codes, levels, levels)
            )

    torch.manual_seed(0)
    layer = swap(nn.Linear(6, 4), LayerState(Two(per_channel), 0, "ternary"))
    before = layer.ternary()
    freeze(layer)
    assert torch.equal(layer.ternary().codes, before.codes)
    torch.testing.assert_close(layer.ternary().dequantize(), before.dequantize())
    torch.testing.assert_close(layer.ternary().positive, before.positive)


def test_copies_are_frozen_with_the_codes_of_the_layer_and_their_own_levels():
    layer, _ = make("linear")
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.mul_(3)
        other.weight[0, 0] = -20
    swap(other, layer._ternary_state)
    own = get_quantizer("absmean").ternary(other.weight).positive
    freeze(layer, [other])
    assert torch.equal(layer.ternary().codes, other.ternary().codes)
    torch.testing.assert_close(other.ternary().positive, own)
