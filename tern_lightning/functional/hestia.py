"""Ternary weights as the limit of a softmax over the levels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from tern_lightning.functional.blocks import blocks, viewed
from tern_lightning.functional.gradient import attach
from tern_lightning.functional.shared import spread

GAUSSIAN_TEMPERATURE = 0.351
"""The temperature at which the softmax has the least squared error on Gaussian weights."""
_LARGEST = 100.0
"""Largest power of two that the softmax computes with: beyond, the share of zero is one in float32."""


def soft_ternary(weight: Tensor, scale: Tensor, temperature: Tensor, channel_axis: int = 0) -> Tensor:
    r"""Expected level under a softmax of the squared distances.

    .. math:: \hat W = s \sum_{c \in \{-1, 0, 1\}} c \; \mathrm{softmax}_c\left(- (W/s - c)^2 / \tau\right)

    Hestia: A Hessian-Guided Differentiable Quantization-Aware Training Framework for Extremely Low-Bit LLMs (2026). It
    is differentiable in the weight and becomes rounding to the nearest level as the temperature falls to zero.

    Args:
        weight: Float32 weight of any shape.
        scale: s, float32 ``[C]``, positive.
        temperature: Temperature of the softmax, a positive scalar.
        channel_axis: Axis of the output channels.

    Example:
        >>> import torch
        >>> soft_ternary(torch.tensor([[0.6, -2.0, 0.1]]), torch.ones(1), torch.tensor(0.01))
        tensor([[ 1.0000e+00, -1.0000e+00,  ...]])
    """
    values, slope = softened(weight.detach(), scale, temperature, channel_axis)
    return attach(values, weight, slope)


@torch.no_grad()
def softened(
    weight: Tensor, scale: Tensor, temperature: Tensor, channel_axis: int = 0, share: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Return the values of :func:`soft_ternary` and their derivative.

    Args:
        weight: Float weight of any shape.
        scale: s, ``[C]``, positive.
        temperature: Temperature of the softmax, a positive scalar.
        channel_axis: Axis of the output channels.
        share: Scalar in [0, 1]: so much of it, and the rest of the weight itself; None is one.
    """
    values, slope = torch.empty_like(weight), torch.empty_like(weight)
    own = scale[:, None]
    views = [viewed(one, channel_axis, len(scale) > 1) for one in (weight, values, slope)]
    rows = [view for view in views if view is not None]
    whole = blocks(*rows, own) if len(rows) == 3 else [(weight, values, slope, spread(scale, weight, channel_axis))]
    for block, mean, derivative, wide in whole:
        _soften(block, wide, temperature, mean, derivative)
        if share is not None:
            mean.mul_(share).add_(block * (1 - share))
            derivative.mul_(share).add_(1 - share)
    return values, slope


def _soften(weight: Tensor, scale: Tensor, temperature: Tensor, mean: Tensor, slope: Tensor) -> None:
    r"""Write the mean level and its derivative.

    The squared distances to -1, 0 and 1 differ by :math:`2 |x| - 1` and :math:`4 |x|` with :math:`x = W / s`, so that
    one exponential :math:`z = \exp((1 - 2 |x|) / \tau)` says all: the weights of the levels are as
    :math:`z^2 e^{-2 / \tau} : z : 1`. The derivative of the mean is :math:`2 / \tau` times the variance of the level.
    """
    # Powers of two, because torch.exp takes more than twice as long.
    top = math.log2(math.e) / temperature
    # Of a softmax that is cold the exponential is infinite, and the shares of both ends are zero.
    total = torch.abs(weight, out=mean).mul_(-2 * top / scale).add_(top).clamp_max_(_LARGEST).exp2_()
    opposite = torch.mul(total, torch.exp2(-top), out=slope).square_()
    inverse = total.add_(opposite).add_(1).reciprocal_()
    own = torch.sub(1, opposite).mul_(inverse)
    opposite.add_(1).mul_(inverse).addcmul_(own, own, value=-1).mul_(2 / temperature)
    torch.mul(own.copysign_(weight), scale, out=mean)


def temperature_factors(traces: Sequence[float], alpha: float = 0.4, kappa: float = 1.0) -> list[float]:
    r"""Factors of the temperatures of layers whose loss has Hessians of these traces.

    .. math:: f_i = \exp(-\alpha \, \mathrm{sigmoid}(\kappa z_i)), \quad z_i = (\log \chi_i - \mu) / \sigma

    with :math:`\mu` and :math:`\sigma` the mean and the (population) standard deviation of the logarithms of all traces
    :math:`\chi`: Hestia (2026) and its authors' code. A layer to which the loss is sensitive has a lower temperature,
    so that it is nearer to its ternary values from the beginning. :math:`\alpha = 0.4` was best in the authors'
    ablation; their code has :math:`\kappa = 1`.

    Args:
        traces: One for every layer; such below 1e-8, which an estimate can give, count as 1e-8.
        alpha: How much the layers differ.
        kappa: How fast the factor changes with the trace.

    Example:
        >>> [round(factor, 3) for factor in temperature_factors([1.0, 10.0, 100.0])]
        [0.913, 0.819, 0.734]
    """
    logs = [math.log(max(trace, 1e-8)) for trace in traces]
    mean, deviation = statistics.fmean(logs), statistics.pstdev(logs) + 1e-8
    return [math.exp(-alpha / (1 + math.exp(-kappa * (value - mean) / deviation))) for value in logs]


def hestia_schedule(progress: Tensor, start: float, blend: float = 0.2, end: float = 0.9) -> tuple[Tensor, Tensor]:
    """Share of the softened weight and temperature.

    Args:
        progress: Scalar in [0, 1].
        start: Temperature at the beginning, > 0.
        blend: Until then the share rises from 0 to 1 at the first temperature.
        end: From there until here the temperature falls to 0 as a cosine.
    """
    way = ((progress - blend) / (end - blend)).clamp(0, 1)
    return (progress / blend).clamp(0, 1), start * (1 + torch.cos(math.pi * way)) / 2
