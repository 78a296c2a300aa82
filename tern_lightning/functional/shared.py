"""What the threshold methods have in common: reductions per layer or per channel, and levels as conditional means."""

from __future__ import annotations

import torch
from torch import Tensor

from tern_lightning.tensor import TernaryTensor


def to_rows(weight: Tensor, channel_axis: int, per_channel: bool) -> Tensor:
    """View a weight as ``[C, n]``: one row for the layer, or one for every output channel."""
    return weight.movedim(channel_axis, 0).flatten(1) if per_channel else weight.reshape(1, -1)


def spread(level: Tensor, weight: Tensor, channel_axis: int) -> Tensor:
    """Reshape a level ``[C]`` so that it broadcasts against ``weight``."""
    shape = [1] * weight.ndim
    shape[channel_axis] = level.shape[0]
    return level.reshape(shape)


def conditional_mean(values: Tensor, chosen: Tensor, channel_axis: int, per_channel: bool) -> Tensor:
    """Mean of ``values`` over ``chosen``, ``[C]``; one where nothing is chosen, so that a level is never zero.

    It is differentiable in ``values``: every chosen element receives the mean's gradient divided by their number.
    """
    rows = to_rows(torch.where(chosen, values, torch.zeros_like(values)), channel_axis, per_channel)
    count = to_rows(chosen.to(values.dtype), channel_axis, per_channel).sum(1)
    return torch.where(count > 0, rows.sum(1) / count.clamp_min(1), torch.ones_like(count))


def ternarize(weight: Tensor, chosen: Tensor, level: Tensor, channel_axis: int) -> TernaryTensor:
    """Join the signs of the chosen weights and a symmetric level ``[C]``."""
    codes = (weight.sign() * chosen).to(torch.int8)
    return TernaryTensor(codes[None], level[None], level[None], channel_axis)


def conditional_mean_ternary(weight: Tensor, chosen: Tensor, channel_axis: int, per_channel: bool) -> TernaryTensor:
    """Ternarise with the level that is optimal for the given choice, the mean of the chosen magnitudes.

    Ternary Weight Networks (2016), equation 4: for a fixed support the squared error is least at this mean.
    """
    level = conditional_mean(weight.abs(), chosen, channel_axis, per_channel)
    return ternarize(weight, chosen, level, channel_axis)
