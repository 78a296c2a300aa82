"""The absolute-mean quantizer of BitNet b1.58."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.shared import kept, mean_magnitude, spread, ternarize
from tern_lightning.ternary_tensor import TernaryTensor


def absmean(
    weight: Tensor,
    eps: float = 1e-5,
    per_channel: bool = False,
    channel_axis: int = 0,
    mask: Tensor | None = None,
) -> TernaryTensor:
    r"""Round to the nearest of -1, 0, +1 in units of the mean magnitude.

    .. math:: \gamma = \max(E|W|, \epsilon), \quad T = \mathrm{clip}(\mathrm{round}(W / \gamma), -1, 1), \quad
        \hat W = \gamma T

    The threshold is half the scale, and the scale is not the conditional mean: ternarizing the result again gives
    another scale. The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits (2024), equations 1 to 3.

    Args:
        weight: Float32 weight of any shape.
        eps: Smallest scale, > 0.
        per_channel: One scale per output channel instead of one for the layer.
        channel_axis: Axis of the output channels.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.

    Example:
        >>> import torch
        >>> absmean(torch.tensor([[1.0, -3.0, 0.5]])).dequantize()
        tensor([[ 1.5000, -1.5000,  0.0000]])
    """
    scale = mean_magnitude(weight, channel_axis, per_channel, mask).clamp_min(eps)
    chosen = kept(weight / spread(scale, weight, channel_axis), mask).round() != 0
    return ternarize(weight, chosen, scale, channel_axis)
