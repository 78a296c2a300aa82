"""Random ternary weights and random inputs for the networks of examples.models, without training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.models import BasicBlock, InvertedResidual

KINDS = 10
"""Kinds of :func:`random_inputs`."""


def random_inputs(shape: tuple[int, ...], count: int, seed: int = 0) -> Tensor:
    """Random inputs ``[count, *shape]`` of :data:`KINDS` kinds: a random center each, and half as much of the new.

    The centers are the same for every seed. Images are patches of several sizes: the average over its pixels is nearly
    the same for every image of independent pixels, and so is what a network with average pooling says about it.
    """
    return _inputs_and_kinds(shape, count, seed)[0]


def _inputs_and_kinds(shape: tuple[int, ...], count: int, seed: int) -> tuple[Tensor, Tensor]:
    centers = _patches(shape, KINDS, torch.Generator().manual_seed(2**31 - 1))
    random = torch.Generator().manual_seed(seed)
    kinds = torch.randint(KINDS, (count,), generator=random)
    return (centers[kinds] + 0.5 * _patches(shape, count, random)) / math.sqrt(1.25), kinds


def _patches(shape: tuple[int, ...], count: int, random: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return torch.randn(count, *shape, generator=random)
    total = torch.zeros(count, *shape)
    for cells in (1, 2, 4, 8, 32):
        coarse = torch.randn(count, shape[0], min(cells, shape[1]), min(cells, shape[2]), generator=random)
        total += F.interpolate(coarse, size=shape[1:], mode="nearest")
    return total / math.sqrt(5)


@torch.no_grad()
def randomly_ternary(
    model: nn.Module,
    shape: tuple[int, ...],
    zeros: float = 0.8,
    seed: int = 0,
    depthwise: bool = False,
    shared: int = 1,
) -> nn.Module:
    """Give a network random weights that are ternary by value, for benchmarks and tests without training.

    The first layer, the last one and, unless asked for, depthwise convolutions keep dense weights. What training would
    give is imitated on :func:`random_inputs`, so that the network tells inputs apart and does not amplify roundings
    until nothing else is left (a deep random one does, MobileNetV2 by a factor of several hundred): statistics of
    normalization are estimated, most normalized values pass ReLU, residual branches are damped, and the last layer is
    fitted by least squares to tell the kinds of inputs apart, so that a class is decided by more than a rounding.

    Args:
        model: The network; it is changed.
        shape: Shape of one input, without the batch.
        zeros: Fraction of zero weights, in [0, 1).
        seed: Of weights and inputs.
        depthwise: Whether depthwise convolutions are ternary too.
        shared: So many neighboring output channels of a ternary layer have their zeros at the same places.

    Returns:
        The network in evaluation mode.

    Raises:
        ValueError: ``zeros`` is out of range.
    """
    if not 0 <= zeros < 1:
        raise ValueError(f"zeros must be in [0, 1), got {zeros}")
    random = torch.Generator().manual_seed(seed)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers:
        weight, channels = layer.weight, layer.weight.shape[0]
        deviation = math.sqrt(2 / weight[0].numel())
        if layer in (layers[0], layers[-1]) or (weight.shape[1] == 1 and not depthwise):
            weight.copy_(deviation * torch.randn(weight.shape, generator=random))
            continue
        kept = (torch.rand(weight.shape, generator=random) >= zeros)[::shared].repeat_interleave(shared, 0)[:channels]
        codes = kept * torch.randn(weight.shape, generator=random).sign()
        spread = 0.75 + 0.5 * torch.rand(channels, generator=random)
        levels = spread * deviation / math.sqrt(1 - zeros)
        weight.copy_(codes * levels.reshape(-1, *[1] * (weight.ndim - 1)))

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        nn.init.constant_(norm.bias, 1.5)
        norm.momentum = None
    for block in model.modules():
        if isinstance(block, BasicBlock | InvertedResidual):
            last = block.bn2 if isinstance(block, BasicBlock) else block.conv[-1]
            nn.init.constant_(last.get_parameter("weight"), 0.3)
            nn.init.zeros_(last.get_parameter("bias"))  # else the sum's mean outgrows what tells inputs apart
    inputs, kinds = _inputs_and_kinds(shape, 128, seed + 1)
    model.train()(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    features: list[Tensor] = []
    hook = layers[-1].register_forward_pre_hook(lambda _, args: features.append(args[0]))
    model.eval()(inputs)
    hook.remove()
    _fit(layers[-1], features[0], kinds, random)
    return model


def _fit(layer: nn.Module, features: Tensor, kinds: Tensor, random: torch.Generator) -> None:
    """Ridge regression of the kinds on the features for the first classes; the others get small random weights."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    center, wanted = features.mean(0), F.one_hot(kinds, KINDS).float()
    x, y = features - center, wanted - wanted.mean(0)
    gram = x @ x.T
    rows = torch.linalg.solve(gram + 0.1 * gram.diagonal().mean() * torch.eye(len(x)), y).T @ x
    weight.copy_(0.1 * rows.std() * torch.randn(weight.shape, generator=random))
    weight[:KINDS] = rows[: len(weight)]
    bias.zero_()
    bias[:KINDS] = wanted.mean(0)[: len(bias)]
    bias.sub_(weight @ center)
