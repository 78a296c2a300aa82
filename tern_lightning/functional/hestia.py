"""Ternary weights as the limit of a softmax over the levels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from tern_lightning.functional.gradient import attach
from tern_lightning.functional.shared import spread

GAUSSIAN_TEMPERATURE = 0.351
"""The temperature at which the softmax has the least squared error on Gaussian weights."""


def soft_ternary(weight: Tensor, scale: Tensor, temperature: Tensor, channel_axis: int = 0) -> Tensor:
    r"""Expected level under a softmax of the squared distances.

    .. math:: \hat W = s \sum_{c \in \{-1, 0, 1\}} c \; \mathrm{softmax}_c\left(- (W/s - c)^2 / \tau\right)

    Hestia: A Hessian-Guided Differentiable Quantization-Aware Training Framework for Extremely Low-Bit LLMs (2026). It
    is differentiable in the weight and becomes rounding to the nearest level as the temperature falls to zero.

    Args:
        weight: Float32 weight of any shape.
        scale: s, float32 ``[C]``, positive.
        temperature: Positive scalar.
        channel_axis: Axis of the output channels.

    Example:
        >>> import torch
        >>> soft_ternary(torch.tensor([[0.6, -2.0, 0.1]]), torch.ones(1), torch.tensor(0.01))
        tensor([[ 1.0000e+00, -1.0000e+00,  ...]])
    """
    values, slope = softened(weight.detach(), scale, temperature, channel_axis)
    return attach(values, weight, slope)


@torch.no_grad()
def softened(weight: Tensor, scale: Tensor, temperature: Tensor, channel_axis: int = 0) -> tuple[Tensor, Tensor]:
    r"""Return the values of :func:`soft_ternary` and their derivative.

    The squared distances to -1, 0 and 1 differ by :math:`2 |x| - 1` and :math:`4 |x|` with :math:`x = W / s`, so that
    two exponentials say all. The derivative of the mean is :math:`2 / \tau` times the variance of the level.
    """
    wide = spread(scale, weight, channel_axis)
    size = (weight / wide).abs_()
    opposite = torch.exp(size * (-4 / temperature))
    # Of a softmax that is cold the exponential is infinite, and the shares of both ends are zero.
    total = size.mul_(-2).add_(1).div_(temperature).exp_().add_(opposite).add_(1)
    mean = torch.sub(1, opposite).div_(total)
    slope = opposite.add_(1).div_(total).addcmul_(mean, mean, value=-1).mul_(2 / temperature)
    return mean.copysign_(weight).mul_(wide), slope


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
        start: First temperature.
        blend: Until then the share rises from 0 to 1 at the first temperature.
        end: From there until here the temperature falls to 0 as a cosine.
    """
    way = ((progress - blend) / (end - blend)).clamp(0, 1)
    return (progress / blend).clamp(0, 1), start * (1 + torch.cos(math.pi * way)) / 2
