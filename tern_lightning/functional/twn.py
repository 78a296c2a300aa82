"""Ternary Weight Networks (Li, Zhang, Liu; 2016)."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.shared import conditional_mean_ternary, mean_magnitude, spread
from tern_lightning.ternary_tensor import TernaryTensor


def twn(
    weight: Tensor,
    factor: float = 0.7,
    per_channel: bool = False,
    channel_axis: int = 0,
    mask: Tensor | None = None,
) -> TernaryTensor:
    r"""Threshold at a multiple of the mean magnitude, level at the conditional mean.

    .. math:: \Delta = 0.7 \, E|W|, \quad T = \mathrm{sign}(W) [|W| > \Delta], \quad \alpha = E(|W| : |W| > \Delta)

    Ternary Weight Networks (2016), equations 4 and 6.

    Args:
        weight: Float32 weight of any shape.
        factor: Multiple of the mean magnitude, >= 0.
        per_channel: One threshold and level per output channel instead of one for the layer.
        channel_axis: Axis of the output channels.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.

    Example:
        >>> import torch
        >>> twn(torch.tensor([[1.0, -3.0, 0.1]])).dequantize()
        tensor([[ 2., -2.,  0.]])
        >>> twn(torch.tensor([[1.0, -3.0, 0.1]]), factor=0.0).codes
        tensor([[[ 1, -1,  1]]], dtype=torch.int8)
    """
    size = weight.abs()
    threshold = factor * mean_magnitude(weight, channel_axis, per_channel, mask)
    chosen = size > spread(threshold, weight, channel_axis)
    return conditional_mean_ternary(weight, chosen, channel_axis, per_channel, mask)
