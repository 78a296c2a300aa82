"""What the threshold methods have in common: reductions per layer or per channel, and levels as conditional means.

A ``mask`` is a boolean tensor of the weight's shape, True where a weight is kept. Pruned weights get code zero and
count neither in a mean or standard deviation nor toward a largest magnitude.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tern_lightning.functional.blocks import blocks, joined, pieces, scratch
from tern_lightning.products import as_factor, scaled
from tern_lightning.ternary_tensor import TernaryTensor


def to_rows(weight: Tensor, channel_axis: int, per_channel: bool) -> Tensor:
    """View a weight as ``[C, n]``: one row for the layer, or one for every output channel."""
    return weight.movedim(channel_axis, 0).flatten(1) if per_channel else weight.reshape(1, -1)


def spread(level: Tensor, weight: Tensor, channel_axis: int) -> Tensor:
    """Reshape a level ``[C]`` so that it broadcasts against ``weight``."""
    shape = [1] * weight.ndim
    shape[channel_axis] = level.shape[0]
    return level.reshape(shape)


def kept(values: Tensor, mask: Tensor | None) -> Tensor:
    """``values`` with zero (False) in place of the pruned weights'."""
    if mask is None:
        return values
    if values.dtype == torch.bool:
        return values & mask
    return scaled(mask, values) if values.is_floating_point() else values * as_factor(mask)


def row_sum(values: Tensor, channel_axis: int, per_channel: bool, mask: Tensor | None = None) -> Tensor:
    """Sum over the kept weights, ``[C]``."""
    return to_rows(kept(values, mask), channel_axis, per_channel).sum(1)


def row_count(weight: Tensor, channel_axis: int, per_channel: bool, mask: Tensor | None = None) -> Tensor:
    """Number of kept weights as float32, ``[C]``."""
    if mask is None:
        rows = to_rows(weight, channel_axis, per_channel)
        return rows.new_full((rows.shape[0],), rows.shape[1], dtype=torch.float32)
    return row_flags(to_rows(mask, channel_axis, per_channel)).to(torch.float32)


def row_flags(rows: Tensor) -> Tensor:
    """How many flags of ``[C, n]`` are set in every row, int32 ``[C]``.

    Several times as fast on CPUs as a sum of flags or ``torch.count_nonzero``, which make eight bytes of each first.
    """
    return as_factor(rows).sum(1, dtype=torch.int32)


def row_mean(values: Tensor, channel_axis: int, per_channel: bool, mask: Tensor | None = None) -> Tensor:
    """Mean over the kept weights, ``[C]``; zero where none is kept."""
    if mask is None:
        return to_rows(values, channel_axis, per_channel).mean(1)
    count = row_count(values, channel_axis, per_channel, mask)
    return row_sum(values, channel_axis, per_channel, mask) / count.clamp_min(1)


def mean_magnitude(weight: Tensor, channel_axis: int, per_channel: bool, mask: Tensor | None = None) -> Tensor:
    """Mean of the magnitudes of the kept weights, ``[C]``; zero where none is kept."""
    given = [one for one in (weight, mask) if one is not None]
    rows = [to_rows(one, channel_axis, per_channel) for one in given]
    parts = []
    for block, *keep in blocks(*rows):
        size = scratch(block).copy_(block).abs_()
        for flags in keep:
            size.mul_(scratch(block, 1).copy_(as_factor(flags)))
        parts.append(size.sum(1))
    return joined(parts, len(rows[0])) / row_count(weight, channel_axis, per_channel, mask).clamp_min(1)


def row_max(values: Tensor, channel_axis: int, per_channel: bool, mask: Tensor | None = None) -> Tensor:
    """Largest of zero and the kept values, ``[C]``."""
    return to_rows(kept(values, mask), channel_axis, per_channel).amax(1).clamp_min(0)


def row_std(
    values: Tensor, mean: Tensor, channel_axis: int, per_channel: bool, mask: Tensor | None = None, tiny: float = 1e-12
) -> Tensor:
    """Unbiased standard deviation about ``mean`` ``[C]`` over the kept weights, ``[C]``, at least ``tiny``."""
    rows = to_rows(values, channel_axis, per_channel)
    if mask is None and rows.shape[1] > 1:
        return torch.var(rows, 1).clamp_min(tiny**2).sqrt()
    squares = (values - spread(mean, values, channel_axis)).square()
    count = row_count(values, channel_axis, per_channel, mask)
    variance = row_sum(squares, channel_axis, per_channel, mask) / (count - 1).clamp_min(1)
    return variance.clamp_min(tiny**2).sqrt()


def conditional_mean(weight: Tensor, chosen: Tensor, channel_axis: int, per_channel: bool) -> Tensor:
    """Mean magnitude over ``chosen``, ``[C]``; one where nothing is chosen, so that a level is never zero.

    It is differentiable in ``weight``: every chosen element receives the mean's gradient divided by their number.
    """
    rows, flags = (to_rows(one, channel_axis, per_channel) for one in (weight, chosen))
    parts = []
    for block, here in blocks(rows, flags):
        factor = scratch(block).copy_(as_factor(here))
        count = factor.sum(1)
        parts.append(torch.stack([count, factor.mul_(block).abs_().sum(1)]))
    count, total = joined(parts, len(rows))
    return torch.where(count > 0, total / count.clamp_min(1), torch.ones_like(count))


def signs(weight: Tensor, chosen: Tensor) -> Tensor:
    """Signs of the chosen weights, int8."""
    codes = torch.empty_like(weight, dtype=torch.int8)
    for block, here, into in pieces(weight.detach(), chosen, codes):
        into.copy_(torch.sign(block, out=scratch(block))).mul_(as_factor(here))
    return codes


def ternarize(weight: Tensor, chosen: Tensor, level: Tensor, channel_axis: int) -> TernaryTensor:
    """Join the signs of the chosen weights and a symmetric level ``[C]``."""
    levels = level[None]
    return TernaryTensor(signs(weight, chosen)[None], levels, levels, channel_axis)


def conditional_mean_ternary(
    weight: Tensor, chosen: Tensor, channel_axis: int, per_channel: bool, mask: Tensor | None = None
) -> TernaryTensor:
    """Ternarize with the level that is optimal for the given choice, the mean of the chosen magnitudes.

    Ternary Weight Networks (2016), equation 4: for a fixed support the squared error is least at this mean.
    """
    if mask is not None:
        chosen = chosen & mask
    level = conditional_mean(weight, chosen, channel_axis, per_channel)
    return ternarize(weight, chosen, level, channel_axis)
