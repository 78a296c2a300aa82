"""Truncated Gaussian approximation: a level in closed form, through which a threshold is trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tern_lightning.functional.shared import kept, row_mean, row_std, signs, spread
from tern_lightning.ternary_tensor import TernaryTensor


def inverse_mills(a: Tensor) -> Tensor:
    r"""Mean of a standard normal variable beyond ``a``, :math:`\lambda(a) = \phi(a) / (1 - \Phi(a))`.

    It is computed from logarithms, so that it does not lose precision where :math:`1 - \Phi` is tiny. Its derivative is
    :math:`\lambda (\lambda - a)`.

    Args:
        a: Float32 or float64 tensor.

    Example:
        >>> import torch
        >>> inverse_mills(torch.tensor([0.0, 1.0, 3.0]))
        tensor([0.7979, 1.5251, 3.2831])
    """
    return torch.exp(-a.square() / 2 - math.log(math.sqrt(2 * math.pi)) - torch.special.log_ndtr(-a))


def gaussian_sparsity(a: Tensor) -> Tensor:
    r"""Share of a normal variable within ``a`` standard deviations of its mean, :math:`2 \Phi(a) - 1`."""
    return torch.special.erf(a / math.sqrt(2))


def tga(
    weight: Tensor,
    threshold: Tensor,
    low: float = 0.05,
    high: float = 3.0,
    two_levels: bool = False,
    detach_stats: bool = False,
    per_channel: bool = False,
    channel_axis: int = 0,
    mask: Tensor | None = None,
) -> TernaryTensor:
    r"""Threshold about the mean; level the mean of a Gaussian's tail, which is differentiable in the threshold.

    .. math:: T = [W > \mu + \Delta] - [W < \mu - \Delta], \quad a = \Delta / \sigma, \quad
        \alpha = \mu + \sigma \lambda(a), \quad \hat W = \alpha T

    Simultaneously Optimizing Weight and Quantizer of Ternary Neural Network using Truncated Gaussian Approximation
    (2019), with :math:`\lambda` of :func:`inverse_mills`. So
    :math:`d\alpha/d\Delta = \lambda (\lambda - a)`, between 0.64 and 1, and :math:`d\alpha/d\sigma = \lambda - a
    \lambda (\lambda - a)`. Only the positive tail's mean is published, for both signs; where the weights' mean is not
    zero, ``two_levels`` gives the negative tail its own, :math:`\sigma \lambda(a) - \mu`.

    Args:
        weight: Float32 weight of any shape. The levels are differentiable in it unless ``detach_stats``.
        threshold: Float32 ``[C]``; it counts as between ``low`` and ``high`` standard deviations. The levels are
            differentiable in it inside that range.
        low: Smallest threshold in standard deviations, >= 0. The published one is 0, toward which learned thresholds
            are reported to drift.
        high: Largest threshold in standard deviations.
        two_levels: A level for each sign.
        detach_stats: Take mean and deviation as constants; their part of the weight's gradient is of the order of one
            over the number of weights.
        per_channel: One threshold and level per output channel instead of one for the layer.
        channel_axis: Axis of the output channels.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.

    Example:
        >>> import torch
        >>> found = tga(torch.tensor([[-2.0, -0.1, 0.1, 2.0]]), torch.tensor([1.0]))
        >>> found.codes.tolist(), round(found.positive.item(), 3)
        ([[[-1, 0, 0, 1]]], 2.001)
    """
    source = weight.detach() if detach_stats else weight
    mean = row_mean(source, channel_axis, per_channel, mask)
    std = row_std(source, mean, channel_axis, per_channel, mask)
    fixed = std.detach()
    bound = torch.minimum(torch.maximum(threshold, low * fixed), high * fixed)
    tail = std * inverse_mills(bound / std)
    rest = weight.detach() - spread(mean.detach(), weight, channel_axis)
    codes = signs(rest, kept(rest.abs() > spread(bound.detach(), weight, channel_axis), mask))
    positive = (mean + tail)[None]
    negative = (tail - mean)[None] if two_levels else positive
    return TernaryTensor(codes[None], positive, negative, channel_axis)
