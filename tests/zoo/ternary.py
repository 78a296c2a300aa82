"""Random weights that are exactly ternary, and what training would have left in a network besides."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tern_lightning.nn.layer_types import channel_axis, find_weight, weight_layers, weight_of

NARROW = 8
"""Layers with fewer inputs a channel (depthwise convolutions above all) stay dense."""


@torch.no_grad()
def make_ternary(module: nn.Module, inputs: tuple[Tensor, ...], zeros: float = 0.8) -> nn.Module:
    """Give every layer but the first and the last ternary weights, one level a channel, in place.

    A channel's largest weights keep their signs and get one level, so that the channel's norm stays what it was;
    statistics of batch normalization are those of the inputs.

    Args:
        module: With float weights.
        inputs: A few samples.
        zeros: Share of zeros.

    Returns:
        The module, in evaluation mode.
    """
    layers = {id(weight_of(layer)): layer for _, layer in weight_layers(module) if find_weight(layer) is not None}
    chosen = list(layers.values())[1:-1]
    for layer in chosen:
        weight = weight_of(layer)
        rows = weight.detach().transpose(0, channel_axis(layer)).flatten(1)
        if rows.shape[1] < NARROW:
            continue
        kept = max(1, round((1 - zeros) * rows.shape[1]))
        codes = torch.zeros_like(rows)
        largest = rows.abs().topk(kept, dim=1).indices
        codes.scatter_(1, largest, rows.gather(1, largest).sign())
        level = rows.norm(dim=1, keepdim=True) / codes.norm(dim=1, keepdim=True).clamp(min=1)
        shape = weight.transpose(0, channel_axis(layer)).shape
        weight.copy_((codes * level).reshape(shape).transpose(0, channel_axis(layer)))
    module.eval()
    _settle(module, inputs)
    return module


def _settle(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Let batch normalization estimate its statistics, and damp its inputs as training does."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms:
        module(*inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
