"""Products that zero digits save, by brute force and on real activations."""

import itertools

import pytest
import torch
from torch import nn

from tern_lightning import TernaryCallback
from tern_lightning.callbacks.multilevel_activation import MultiLevelActivation
from tern_lightning.functional.multilevel import activation_digits, multilevel_activation
from tern_lightning.metrics.speedup import SpeedUp, count_products, measure_speedup
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.learned_input import MultiLevelInput
from tern_lightning.nn.swap import swap
from tern_lightning.nn.ternary_layers import ternary_layers
from tern_lightning.quantizers import get_quantizer
from tests.tern_lightning.training_nets import samples


def activations(**options):
    return MultiLevelActivation(**{"terms": 2, "learning_rate": 0.01, "signed": True, **options})


def test_products_by_brute_force():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1, stride=2)
    layer = swap(conv, LayerState(get_quantizer("multilevel", terms=2, iterations=0), 0, "ternary"))
    x = torch.relu(torch.randn(1, 2, 5, 5))
    active = activation_digits(x, torch.tensor([1.0, 0.5]))
    found = count_products(layer, multilevel_activation(x, torch.tensor([1.0, 0.5])), (active != 0).sum(0), 2)
    codes, y = layer.ternary().codes, multilevel_activation(x, torch.tensor([1.0, 0.5]))
    value = layer.ternary().dequantize()
    macs = words = effective = 0
    for o, i, r, c, kr, kc in itertools.product(range(3), range(2), range(3), range(3), range(3), range(3)):
        row, column = 2 * r + kr - 1, 2 * c + kc - 1
        if not (0 <= row < 5 and 0 <= column < 5):
            continue
        macs += 1
        words += int(value[o, i, kr, kc] != 0 and y[0, i, row, column] != 0)
        effective += int((codes[:, o, i, kr, kc] != 0).sum()) * int((active[:, 0, i, row, column] != 0).sum())
    assert found == SpeedUp(macs, words, 4 * macs, effective)
    assert found.word == macs / words
    assert found.bit == 4 * macs / effective
    assert found.published == 4 * macs / words


@pytest.mark.parametrize(
    "layer", [nn.Linear(6, 4), nn.ConvTranspose2d(3, 2, 2, stride=2), nn.Conv1d(4, 4, 3, groups=2)]
)
def test_macs_of_dense_layers(layer):
    shape = {nn.Linear: (5, 6), nn.ConvTranspose2d: (1, 3, 4, 4), nn.Conv1d: (2, 4, 9)}[type(layer)]
    found = count_products(layer, torch.rand(shape) + 1)
    expected = {nn.Linear: 5 * 24, nn.ConvTranspose2d: 16 * 24, nn.Conv1d: 2 * 7 * 24}[type(layer)]
    assert found == SpeedUp(expected, expected, expected, expected)
    assert found.word == found.bit == found.published == 1


def test_measured_on_real_activations(fit):
    _, net = fit(TernaryCallback("multilevel", verbose=False), activations(signed=False))
    net.eval()
    found = measure_speedup(net, [samples(8)[0], samples(8)[0]])
    assert set(found) == set(ternary_layers(net))
    once = measure_speedup(net, [samples(8)[0]])
    whole = sum(found.values(), SpeedUp(0, 0, 0, 0))
    assert whole.macs == 2 * sum(one.macs for one in once.values())
    for path, one in found.items():
        assert one.bit >= one.word >= 1, path
        assert one.digits == 4 * one.macs
    hook = next(h for h in net.hidden._forward_pre_hooks.values() if isinstance(h, MultiLevelInput))
    assert hook.last is None
    assert not net.hidden._forward_hooks
    # The same layer by hand: every product of a digit of the weight and one of the activation.
    seen = []
    handle = net.hidden.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    net(samples(8)[0])
    handle.remove()
    value, codes = hook.value.detach(), net.hidden.ternary().codes
    digits = torch.tensor(list(itertools.product((0, 1), repeat=len(value))), dtype=torch.float32)
    nearest = (seen[0].flatten()[:, None] - digits @ value).abs().min(1)
    assert float(nearest.values.max()) < 1e-5
    active = digits[nearest.indices].sum(1).reshape(-1, codes.shape[-1])
    assert once["hidden"].effective == int((active @ (codes != 0).sum(0).float().T).sum())
