"""Compound scaling: factors, weights that are carried over, the search at a fixed cost."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from examples.models import CifarResNet
from tern_lightning import scale_network, search_scaling
from tern_lightning.nn.compound_scaling import (
    DEPTHS,
    compound,
    inherit,
    scale_blocks,
    scale_channels,
    scaling_candidates,
)
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.swap import swap
from tern_lightning.quantizers import get_quantizer

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Chain(nn.Module):
    """A stem, residual blocks with a depthwise convolution, a linear layer on flattened planes."""

    def __init__(self, channels, blocks):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(self._block(channels) for _ in range(blocks)))
        self.head = nn.Linear(channels * 4, 5)

    @staticmethod
    def _block(channels):
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        return nn.Sequential(depthwise, nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


def make(width, depth):
    return Chain(scale_channels(8, width, 4), scale_blocks(2, depth))


def trained():
    torch.manual_seed(0)
    net = make(1.0, 1.0)
    net(X)  # running statistics
    return net.eval()


def test_published_factors():
    """Width and depth of EC2T's network for CIFAR-100; its grid doubles the operations within rounding."""
    width, depth = compound(1.2, 1.4, 3.5)
    assert depth == pytest.approx(3.2467, abs=1e-4)
    assert width == pytest.approx(1.8929, abs=1e-4)
    assert [scale_channels(c, width) for c in (16, 32, 64)] == [32, 64, 128]
    assert scale_blocks(7, depth) == 23
    for d, w in zip(DEPTHS, (1.4, 1.3, 1.2, 1.1, 1.1, 1.0), strict=True):
        assert d * w**2 == pytest.approx(2, abs=0.11)
    # Floating point does not add a channel group or a block.
    assert scale_channels(10, 0.8 * 3, 8) == 24
    assert scale_blocks(10, 1.1) == 11


def test_same_size_is_the_same_network():
    net = trained()
    again = scale_network(make, net, 1.0, 1.0).eval()
    assert torch.equal(again(X), net(X))
    assert inherit(make(1, 1), net).share == 1.0


def test_leading_channels_are_those_of_the_trained_network():
    """With the added inputs cut off the first channels compute what the trained network does."""
    net = trained()
    wide = scale_network(make, net, 1.7, 1.0).eval()
    assert wide.stem.out_channels == 16
    with torch.no_grad():
        for block in wide.blocks:
            block[3].weight[:8, 8:] = 0
        wide.head.weight.unflatten(1, (16, 4))[:, 8:] = 0
        torch.testing.assert_close(wide(X), net(X))
    assert not torch.equal(wide.stem.weight[8:], make(1.7, 1.0).stem.weight[8:])


def test_added_parts_are_the_constructors():
    net = trained()
    torch.manual_seed(5)
    fresh = make(2.0, 1.5)
    torch.manual_seed(5)
    larger = scale_network(make, net, 2.0, 1.5)
    for path in ("blocks.2.0.weight", "blocks.2.1.weight", "blocks.2.3.bias"):
        assert torch.equal(larger.get_parameter(path), fresh.get_parameter(path))
    mine, own, start = (n.get_parameter("blocks.1.3.weight") for n in (larger, net, fresh))
    assert torch.equal(mine[:8, :8], own)
    assert torch.equal(mine[8:], start[8:])
    assert torch.equal(mine[:, 8:], start[:, 8:])
    assert torch.equal(larger.blocks[1][1].running_mean[:8], net.blocks[1][1].running_mean)
    report = inherit(fresh, net)
    assert {"stem.weight", "blocks.0.0.weight", "head.weight"} <= set(report.part)
    assert set(report.whole) == {"head.bias", "blocks.0.1.num_batches_tracked", "blocks.1.1.num_batches_tracked"}
    assert all(path.startswith("blocks.2.") for path in report.new)
    counted = sum(p.numel() for n, p in net.named_parameters()) / sum(p.numel() for p in fresh.parameters())
    assert report.share == pytest.approx(counted)


def test_smaller_networks_take_the_leading_channels():
    net = trained()
    thin = scale_network(make, net, 0.5, 0.5)
    assert torch.equal(thin.blocks[0][3].weight, net.blocks[0][3].weight[:4, :4])
    assert len(thin.blocks) == 1


def test_latent_weights_of_ternary_layers_are_taken():
    net = trained()
    latent = net.blocks[0][3].weight.detach().clone()
    swap(net.blocks[0][3], LayerState(get_quantizer("twn"), 0, "ternary"))
    assert torch.equal(scale_network(make, net, 2.0, 1.0).blocks[0][3].weight[:8, :8], latent)


def test_what_does_not_fit_is_left_alone():
    torch.manual_seed(0)
    small, large = (nn.ModuleDict({"attention": nn.MultiheadAttention(n, 2), "a": nn.Linear(4, 4)}) for n in (4, 8))
    before = large["attention"].in_proj_weight.detach().clone()
    report = inherit(large, small)
    assert torch.equal(large["attention"].in_proj_weight, before)
    assert "attention.in_proj_weight" in report.new
    grouped = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.Linear(2, 2))
    other = nn.Sequential(nn.Conv2d(8, 8, 3, groups=4), nn.Linear(2, 2))
    assert inherit(other, grouped).new == ("0.weight", "0.bias")
    with pytest.raises(ValueError, match="no parameter of trained"):
        inherit(nn.Linear(3, 3), nn.Sequential(nn.Conv2d(1, 1, 3)))
    with pytest.raises(ValueError, match="width must be > 0"):
        scale_network(make, trained(), 0.0, 1.0)


def multiplications(channels, blocks, side=8):
    """Closed formula of :class:`Chain`."""
    planes = side * side
    return planes * channels * 27 + blocks * planes * (9 * channels + channels**2) + channels * 4 * 5


def test_candidates_are_the_widest_within_the_budget():
    """Against all widths one by one and the closed formula."""
    found = scaling_candidates(make, 2.0, (X[:1],), depths=(1.0, 1.2, 1.5, 2.0, 50.0))
    budget = 2 * multiplications(8, 2)
    blocks = {c.depth: scale_blocks(2, c.depth) for c in found}
    assert [*blocks] == [1.0, 1.2, 2.0]  # 1.5 gives the network of 1.2; 50 blocks are too many at any width
    for one in found:
        widths = [w / 100 for w in range(1, 800)]
        prices = {w: multiplications(scale_channels(8, w, 4), blocks[one.depth]) for w in widths}
        assert one.width == max(w for w in widths if prices[w] <= budget)
        assert one.cost == prices[one.width]
    by_size = scaling_candidates(make, 3.0, cost="parameters", depths=(1.0,))[0]
    size = sum(p.numel() for p in make(by_size.width, 1.0).parameters())
    assert by_size.cost == size <= 3 * sum(p.numel() for p in make(1.0, 1.0).parameters())
    with pytest.raises(ValueError, match="needs inputs"):
        scaling_candidates(make)
    with pytest.raises(ValueError, match="cost must be"):
        scaling_candidates(make, cost="latency")
    with pytest.raises(ValueError, match="no depth of"):
        scaling_candidates(make, 2.0, (X[:1],), depths=(50.0,))


def test_search_returns_the_best_first():
    net, seen = trained(), []

    def evaluate(network):
        seen.append(network)
        assert torch.equal(network.stem.weight[:8], net.stem.weight)
        return math.nan if len(network.blocks) == 3 else float(len(network.blocks))

    found = search_scaling(make, evaluate, net, 2.0, (X[:1],), depths=(1.0, 1.2, 2.0))
    assert [one.depth for one in found] == [2.0, 1.0, 1.2]
    assert [one.score for one in found][:2] == [4.0, 2.0]
    assert len(seen) == 3


def test_residual_network_of_the_examples():
    """A ResNet for CIFAR at width 1.5 and depth 4/3 has the blocks and channels that it should, and computes."""

    def resnet(width, depth):
        return CifarResNet(scale_blocks(3, depth), width=scale_channels(16, width))

    net = resnet(1.0, 1.0)
    larger = scale_network(resnet, net, 1.5, 4 / 3)
    assert torch.equal(larger.layer2[2].conv2.weight[:32, :32], net.layer2[2].conv2.weight)
    assert [len(stage) for stage in (larger.layer1, larger.layer2, larger.layer3)] == [4, 4, 4]
    assert larger.fc.in_features == 96
    assert larger(torch.randn(2, 3, 32, 32)).shape == (2, 10)
