"""Projection on the ternary weights with one level, by alternating least squares."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.shared import conditional_mean, kept, row_mean, spread, ternarize
from tern_lightning.tensor import TernaryTensor


def ternary_projection(
    weight: Tensor,
    start: Tensor | None = None,
    iterations: int = 5,
    per_channel: bool = False,
    channel_axis: int = 0,
    mask: Tensor | None = None,
) -> TernaryTensor:
    r"""Alternate between the nearest codes for a level and the best level for the codes.

    .. math:: Q = \mathrm{sign}(V) [|V| > \alpha / 2], \quad \alpha = \langle V, Q \rangle / \langle Q, Q \rangle

    Extremely Low Bit Neural Network: Squeeze the Last Bit Out with ADMM (2018). Neither step can raise
    the squared distance :math:`\|V - \alpha Q\|^2`.

    Args:
        weight: The tensor V to project, float32 of any shape; in ADMM the sum of weight and scaled multiplier.
        start: First level, ``[C]``, positive; None for the mean magnitude. ADMM starts from that of the weight alone.
        iterations: Rounds, >= 1.
        per_channel: One level per output channel instead of one for the layer.
        channel_axis: Axis of the output channels.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.

    Raises:
        ValueError: ``iterations`` is less than one.

    Example:
        >>> import torch
        >>> ternary_projection(torch.tensor([[1.0, -3.0, 0.1]])).dequantize()
        tensor([[ 0., -3.,  0.]])
    """
    if iterations < 1:
        raise ValueError(f"iterations must be >= 1, got {iterations}")
    size = weight.abs()
    level = row_mean(size, channel_axis, per_channel, mask) if start is None else start
    for _ in range(iterations):
        chosen = kept(size > spread(level, weight, channel_axis) / 2, mask)
        level = conditional_mean(size, chosen, channel_axis, per_channel)
    return ternarize(weight, chosen, level, channel_axis)
