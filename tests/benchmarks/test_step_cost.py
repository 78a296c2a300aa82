"""The benchmark of training steps: what it computes from times, and a run of a few steps."""

import json

import pytest
import torch
from torch import nn

from benchmarks import step_cost, step_peers
from benchmarks.step_cost import Measurement, overheads, table
from examples.models import resnet20
from tern_lightning.quantizers import quantizer_names


def test_overheads_compare_neighbors():
    """A pair of measurements in which the machine is twice as slow changes nothing."""
    ones = [1.0, 1.0, 1.0]
    base = Measurement("net", "float", ones, ones, ones, ones, peak=100)
    other = Measurement("net", "slow", [1.1, 2.4, 1.3], [1.5, 1.5, 1.5], [1.0, 2.0, 1.0], ones, peak=150)
    assert overheads(other.seconds, other.float_seconds) == pytest.approx([10, 20, 30])
    text = table([base, other, Measurement("net", "gone", error="No module named 'gone'")])
    assert text.splitlines()[2].split() == ["slow", "1300.0", "20.0", "(10.0", "to", "30.0)", "10.0", "0.0", "50.0"]
    assert "not run: No module named 'gone'" in text
    assert " 50.0 (50.0 to 50.0)    50.0" in table([base, other], "cpu")


def test_every_method_has_a_variant():
    names = {name.split()[0] for name in step_cost.variants(bias=True)}
    assert {name for name in quantizer_names() if not name.startswith("test-")} <= names
    assert "tequila" not in step_cost.variants(bias=False)


def test_a_short_run(tmp_path, capsys):
    options = ["--rounds", "1", "--steps", "1", "--batch", "2", "--variants", "twn,torch.ao int8"]
    assert step_cost.main(["resnet20", *options, "--output", str(tmp_path / "cost.json")]) == 0
    found = json.loads((tmp_path / "cost.json").read_text())["measurements"]
    assert [one["variant"] for one in found] == ["float", "twn", "torch.ao int8"]
    for one in found:
        assert len(one["seconds"]) == len(one["cpu"]) == len(one["float_seconds"]) == len(one["float_cpu"]) == 1
        assert min(one["seconds"]) > 0
    # At least the gradient of every weight is allocated within a step; a ternary layer needs its values besides, most
    # of which are there when the step needs most.
    weights = 4 * sum(p.numel() for p in resnet20().parameters())
    assert found[0]["peak"] > weights
    assert found[1]["peak"] > found[0]["peak"] + 0.7 * weights
    assert "overhead over float" in capsys.readouterr().out


def test_peers_quantize_the_layers_that_the_callback_does():
    network = resnet20()
    inner = step_peers.inner_convolutions(network)
    assert len(inner) == 18
    assert all(layer is not network.conv1 for _, _, layer in inner)
    before = {id(layer) for _, _, layer in inner}
    step_peers.torch_int8(network)
    assert not before & {id(module) for module in network.modules()}
    assert type(network.conv1) is nn.Conv2d
    weight = network.layer1[0].conv1.weight_fake_quant(network.layer1[0].conv1.weight)
    assert len(torch.unique(weight)) <= 256
