"""Projection on the ternary weights with one level: the closest of them all."""

from __future__ import annotations

import torch
from torch import Tensor

from tern_lightning.functional.blocks import exporting
from tern_lightning.functional.shared import conditional_mean_ternary, kept, row_flags, spread, to_rows
from tern_lightning.products import scaled
from tern_lightning.ternary_tensor import TernaryTensor

_FEW = 1024
"""Rows up to this length are sorted as they are."""
_SHIFT, _BINS = 16, 1024
"""Magnitudes that differ in the last 16 bits only share a bin, so that there are 128 bins for every power of two."""


def ternary_projection(
    weight: Tensor, per_channel: bool = False, channel_axis: int = 0, mask: Tensor | None = None
) -> TernaryTensor:
    r"""Find the ternary weight with one level that is closest to a tensor.

    .. math:: \min_{\alpha \ge 0, \, Q \in \{-1, 0, 1\}^n} \|V - \alpha Q\|^2
        = \|V\|^2 - \max_k \frac{1}{k} \Big( \sum_{i \le k} |V|_{(i)} \Big)^2

    with :math:`|V|_{(1)} \ge |V|_{(2)} \ge \dots` the sorted magnitudes: for a given number k of codes other than zero
    the k largest magnitudes have them, and their mean is the level. Extremely Low Bit Neural Network: Squeeze the Last
    Bit Out with ADMM (2018), which needs this projection, alternates between levels and codes and so may end at a level
    that is not the best one.

    Args:
        weight: The tensor V to project, float32 of any shape; in ADMM the sum of weight and scaled multiplier.
        per_channel: One level per output channel instead of one for the layer.
        channel_axis: Axis of the output channels.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.

    Example:
        >>> import torch
        >>> ternary_projection(torch.tensor([[1.0, -3.0, 0.1]])).dequantize()
        tensor([[ 0., -3.,  0.]])
    """
    size = kept(weight.detach().abs(), mask)
    level = best_level(to_rows(size, channel_axis, per_channel))
    # At the best level every weight has the nearest code, so that the level alone says which.
    chosen = size > spread(level, weight, channel_axis) / 2
    return conditional_mean_ternary(weight, chosen, channel_axis, per_channel, mask)


def best_level(size: Tensor) -> Tensor:
    """The level that is best for every row of magnitudes ``[C, n]``, float32 ``[C]``; zero for a row of zeros."""
    size = size.float()
    # To sort all weights costs a CPU several times as much as everything else, and only those near the cut need it.
    if size.device.type == "cpu" and size.shape[1] > _FEW and not exporting():
        return _best_level(*_near_the_cut(size.contiguous()))
    zeros = size.new_zeros(len(size))
    return _best_level(size, zeros, zeros)


def _best_level(size: Tensor, above: Tensor, count: Tensor) -> Tensor:
    """The best level of rows of magnitudes ``[C, n]`` and others that are chosen for certain.

    Args:
        size: Magnitudes of which some may be chosen, the largest first; zeros do no harm.
        above: Sum of those that are chosen, ``[C]``.
        count: Their number, ``[C]``.
    """
    total = torch.cat([above[:, None], size.sort(1, descending=True).values], 1).double().cumsum(1)
    number = count[:, None] + torch.arange(total.shape[1], device=size.device)
    number = number.double().clamp_min(1)
    best = (total.square() / number).argmax(1, keepdim=True)
    return (total.gather(1, best) / number.gather(1, best))[:, 0].float()


def _near_the_cut(size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The few magnitudes of every row about which there is doubt, and what :func:`_best_level` needs of those above.

    The mean of the k largest falls with k, so that for a cut within a bin it is between the means of the bins above
    without and with this one; counts and edges of bins give bounds for both. At the best k the cut is at half of the
    mean, because every weight has the nearest code. So only bins count whose edges are on the right sides of half the
    bounds. The smallest mean is that of all weights; the first bin is for what is below half of it.
    """
    first = (size.mean(1, keepdim=True) * 0.499).view(torch.int32)
    slots = size.view(torch.int32) - first
    slots >>= _SHIFT
    slots.add_(1).clamp_(0, _BINS - 1)
    slots += torch.arange(0, len(size) * _BINS, _BINS, dtype=torch.int32)[:, None]
    held = torch.bincount(slots.flatten(), minlength=len(size) * _BINS).reshape(-1, _BINS).double()
    edges = (first + (torch.arange(-1, _BINS, dtype=torch.int32) << _SHIFT)).view(torch.float32).double()
    edges[:, 0], edges[:, -1] = 0, size.amax(1)

    number, least, most = (_from_above(held * x) for x in (torch.ones(()), edges[:, :-1], edges[:, 1:]))
    least, most = least[:, :-1] / number[:, :-1].clamp_min(1), most[:, 1:] / number[:, 1:].clamp_min(1)
    most = torch.where(number[:, 1:] > 0, most, edges[:, -1:])
    possible = ((least / 2 <= edges[:, 1:] * 1.00001) & (most / 2 >= edges[:, :-1] * 0.99999)).to(torch.uint8)
    possible[:, 0] = 0

    low, high = possible.argmax(1, keepdim=True), _BINS - possible.flip(1).argmax(1, keepdim=True)
    above = size >= torch.where(high < _BINS, edges.gather(1, high), torch.inf).float()
    near = (size >= edges.gather(1, low).float()) & ~above
    return _gathered(size, near), scaled(above, size).sum(1), row_flags(above)


def _from_above(values: Tensor) -> Tensor:
    """Sums of every column with those after it, ``[C, n + 1]``; the last one is zero."""
    return torch.nn.functional.pad(values.flip(1).cumsum(1).flip(1), (0, 1))


def _gathered(size: Tensor, chosen: Tensor) -> Tensor:
    """The chosen values of every row from the left, with zeros behind them, ``[C, m]``, with m at least one."""
    count = row_flags(chosen).to(torch.int64)
    row = torch.repeat_interleave(torch.arange(len(size), device=size.device), count)
    start = count.cumsum(0) - count
    column = torch.arange(len(row), device=size.device) - start[row]
    found = size.new_zeros(len(size), max(int(count.max()), 1))
    found[row, column] = size[chosen]
    return found
