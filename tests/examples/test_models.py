"""The example networks against the numbers of their papers and of torchvision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.random_ternary import random_inputs, randomly_ternary
from examples.models import MODELS, SubsampledShortcut


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66), ("resnet56", 0.85)]
)
def test_cifar_resnets_have_the_papers_number_of_parameters(name: str, millions: float) -> None:
    assert round(parameters(MODELS[name][0]()) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_689_512),
        ("mobilenetv2", 3_504_872),
        ("transformer", 3 * (4 * 512 * 513 + 2048 * 513 + 512 * 2049 + 4 * 512) + 10 * 513),
        ("mlp", 784 * 1024 + 1024 * 1024 + 4 * 1024 + 1024 * 10 + 10),
    ],
)
def test_number_of_parameters(name: str, count: int) -> None:
    assert parameters(MODELS[name][0]()) == count


@pytest.mark.parametrize(
    ("name", "layers"), [("resnet20", 20), ("resnet32", 32), ("resnet44", 44), ("resnet56", 56), ("resnet18", 18)]
)
def test_depth_is_the_name(name: str, layers: int) -> None:
    modules = MODELS[name][0]().named_modules()
    found = [path for path, module in modules if isinstance(module, nn.Conv2d | nn.Linear) and "downsample" not in path]
    assert len(found) == layers


def test_names_are_torchvisions() -> None:
    resnet = MODELS["resnet18"][0]().state_dict()
    assert resnet["layer4.1.bn2.running_var"].shape == (512,)
    assert resnet["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert resnet["layer2.0.downsample.1.num_batches_tracked"].shape == ()
    assert (resnet["conv1.weight"].shape, resnet["fc.weight"].shape) == ((64, 3, 7, 7), (1000, 512))
    assert len(resnet) == 122
    mobile = MODELS["mobilenetv2"][0]().state_dict()
    assert mobile["features.0.0.weight"].shape == (32, 3, 3, 3)
    assert mobile["features.1.conv.0.0.weight"].shape == (32, 1, 3, 3)
    assert mobile["features.1.conv.1.weight"].shape == (16, 32, 1, 1)
    assert mobile["features.17.conv.3.weight"].shape == (320,)
    assert mobile["features.18.0.weight"].shape == (1280, 320, 1, 1)
    assert mobile["classifier.1.bias"].shape == (1000,)
    assert len(mobile) == 314


def test_shortcut_takes_every_second_pixel_and_adds_zero_channels() -> None:
    x = torch.arange(1.0, 33).reshape(1, 2, 4, 4)
    y = SubsampledShortcut(2)(x)
    assert y.shape == (1, 4, 2, 2)
    assert y[0, 1].tolist() == [[1, 3], [9, 11]]
    assert y[0, 2].tolist() == [[17, 19], [25, 27]]
    assert not y[0, 0].any()
    assert not y[0, 3].any()


@pytest.mark.parametrize("name", ["resnet20", "mlp"])
@pytest.mark.parametrize("zeros", [0.0, 0.8])
def test_random_ternary_networks(name: str, zeros: float) -> None:
    make, shape = MODELS[name]
    model = randomly_ternary(make(), shape, zeros, seed=3)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers[1:-1]:
        for row in layer.weight.detach():
            assert len(row.abs()[row != 0].unique()) <= 1
    inner = torch.cat([layer.weight.detach().flatten() for layer in layers[1:-1]])
    assert (inner == 0).float().mean().item() == pytest.approx(zeros, abs=0.01)
    for layer in (layers[0], layers[-1]):
        assert len(layer.weight.detach().abs().unique()) > layer.weight.shape[0]

    logits = model(random_inputs(shape, 64, seed=9))
    assert len(logits.argmax(1).unique()) >= 5
    assert 0.05 < logits.std().item() < 50
    best, second = logits.topk(2).values.T
    assert (best - second).quantile(0.05) > 0.05  # classes are not decided by roundings

    again = randomly_ternary(make(), shape, zeros, seed=3).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())


def test_zeros_out_of_range() -> None:
    make, shape = MODELS["mlp"]
    with pytest.raises(ValueError, match=r"zeros must be in \[0, 1\), got 1"):
        randomly_ternary(make(), shape, zeros=1.0)
