"""Ternary Weight Networks (Li, Zhang, Liu; 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from tern_lightning.functional.shared import row_count, to_rows
from tern_lightning.functional.spare import SpareMemory
from tern_lightning.functional.steps import Steps, above, magnitudes, shaped
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
    weight = weight.detach()
    rows, size, steps, level = _fitted(weight, factor, per_channel, channel_axis, mask)
    codes = shaped(steps.codes(rows, size), weight, channel_axis, per_channel)
    return TernaryTensor(codes, level, level, channel_axis)


def twn_values(
    weight: Tensor,
    factor: float = 0.7,
    per_channel: bool = False,
    channel_axis: int = 0,
    mask: Tensor | None = None,
    spare: SpareMemory | None = None,
) -> Tensor:
    """The values of :func:`twn`, without its codes on the way, in memory of ``spare``."""
    weight = weight.detach()
    rows, size, steps, level = _fitted(weight, factor, per_channel, channel_axis, mask)
    return shaped(steps.values(rows, size, level, spare), weight, channel_axis, per_channel)


def _fitted(
    weight: Tensor, factor: float, per_channel: bool, channel_axis: int, mask: Tensor | None
) -> tuple[Tensor, Tensor, Steps, Tensor]:
    """Rows ``[C, n]`` of a weight, their magnitudes and codes, and the level ``[1, C]``."""
    keep = None if mask is None else to_rows(mask, channel_axis, per_channel)
    rows, size = magnitudes(to_rows(weight, channel_axis, per_channel), keep)
    count = row_count(weight, channel_axis, per_channel, mask).clamp_min(1)
    threshold = (factor * size.sum(1) / count)[None].to(rows.dtype)
    number, total = above(size, threshold)
    level = torch.where(number > 0, total / number.clamp_min(1), 1.0).float()
    digits = torch.tensor([0.0, 1.0], device=rows.device)[None, :, None].expand(1, 2, len(rows))
    return rows, size, Steps(threshold, digits), level
