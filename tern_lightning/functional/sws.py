"""Statistical weight scaling."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.shared import conditional_mean_ternary, spread, to_rows
from tern_lightning.tensor import TernaryTensor


def sws(weight: Tensor, beta: float = 0.05, per_channel: bool = False, channel_axis: int = 0) -> TernaryTensor:
    r"""Threshold at a share of the largest magnitude, level at the conditional mean.

    .. math:: \Delta = \beta \max|W|, \quad T = \mathrm{sign}(W) [|W| \ge \Delta], \quad
        \alpha = E(|W| : |W| \ge \Delta)

    Optimize Deep Convolutional Neural Network with Ternarized Weights and High Accuracy (2019), section 3.1, which
    calls it statistical weight scaling.

    Args:
        weight: Float32 weight of any shape.
        beta: Share of the largest magnitude, in [0, 1].
        per_channel: One threshold and level per output channel instead of one for the layer.
        channel_axis: Axis of the output channels.

    Example:
        >>> import torch
        >>> sws(torch.tensor([[1.0, -3.0, 0.1]])).dequantize()
        tensor([[ 2., -2.,  0.]])
    """
    size = weight.abs()
    threshold = beta * to_rows(size, channel_axis, per_channel).amax(1)
    return conditional_mean_ternary(weight, size >= spread(threshold, weight, channel_axis), channel_axis, per_channel)
