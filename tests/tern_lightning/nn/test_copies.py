"""Networks whose weights are computed in forward, and modules that hold results of computations."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from tern_lightning import to_plain
from tern_lightning.exporter import ExportError, write_onnx
from tern_lightning.exporter.runtime import run_onnx
from tern_lightning.functional import twn

parametrizations = nn.utils.parametrizations
NORMALIZED = {
    "weight_norm": nn.utils.weight_norm,
    "weight_norm-layer": lambda layer: nn.utils.weight_norm(layer, dim=None),
    "spectral_norm": nn.utils.spectral_norm,
    "new-weight_norm": parametrizations.weight_norm,
    "new-spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


def network(normalize):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        middle = normalize(nn.Conv2d(8, 8, 3, padding=1))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), middle, nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    with torch.no_grad():
        net[4].weight.copy_(twn(net[4].weight).dequantize())
    net(torch.randn(2, 3, 8, 8)).square().sum().backward()
    return net.eval()


@pytest.mark.parametrize("activations", ["float32", "uint8"])
@pytest.mark.parametrize("kind", NORMALIZED)
def test_export(kind, activations):
    net, x = network(NORMALIZED[kind]), torch.randn(4, 3, 8, 8)
    before, expected = net.state_dict(), net(x).detach().numpy()
    written = write_onnx(net, x, activations=activations)
    assert (set(written.ternary), written.dense) == ({"4"}, ("0", "2"))
    found = run_onnx(written.model, [x.numpy()])[0]
    tolerance = 1e-5 if activations == "float32" else 0.05
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
    # The module is as it was, and can be trained on.
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert np.array_equal(net(x).detach().numpy(), expected)
    net(x).sum().backward()


def test_outputs_that_a_module_has_kept():
    net, x = network(lambda layer: layer), torch.randn(4, 3, 8, 8)
    net.last, net.all = net(x), {"outputs": [net(x)], "none": None}
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)
    assert set(write_onnx(net, x).ternary) == {"4"}
    plain = to_plain(net)
    assert torch.equal(plain(x), net(x))
    assert torch.equal(plain.all["outputs"][0], net.all["outputs"][0])
    assert net.last.requires_grad
    assert not plain.last.requires_grad


def test_what_cannot_be_copied_at_all():
    class Holder(nn.Linear):
        def __deepcopy__(self, memory):
            raise TypeError("holds an open file")

    with pytest.raises(ExportError, match=r"cannot copy Holder .*: holds an open file\. .*copy.deepcopy"):
        write_onnx(Holder(3, 3), torch.randn(1, 3))
