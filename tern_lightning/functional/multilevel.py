"""Weights as sums of several ternary terms: residual ternarization, least-squares levels, nearest codes."""

from __future__ import annotations

import torch
from torch import Tensor

from tern_lightning.functional.frozen import frozen_levels
from tern_lightning.functional.shared import row_count, to_rows
from tern_lightning.functional.spare import SpareMemory
from tern_lightning.functional.steps import Steps, magnitudes, nearest, residual, shaped
from tern_lightning.ternary_tensor import TernaryTensor


def multilevel(
    weight: Tensor,
    terms: int = 2,
    factor: float = 0.7,
    iterations: int = 1,
    per_channel: bool = False,
    channel_axis: int = 0,
    mask: Tensor | None = None,
) -> TernaryTensor:
    r"""Ternarize the residual of the terms before, then fit all levels together and code every weight anew.

    .. math:: r_0 = W, \quad T_i = \mathrm{sign}(r_{i-1}) [|r_{i-1}| > \Delta_i], \quad
        \Delta_i = 0.7 \, E|r_{i-1}|, \quad \alpha_i = E(|r_{i-1}| : T_i \ne 0), \quad r_i = r_{i-1} - \alpha_i T_i

    That much is Ternary Weight Networks (2016), equations 4 and 6, on residuals. Every iteration then solves
    :math:`\min_\alpha \|W - \sum_i \alpha_i T_i\|^2` as in ABC-Net (2017)
    and gives every weight the nearest of the :math:`3^M` sums, as LQ-Nets (2018) does for binary
    terms. Neither can raise the squared error.

    Args:
        weight: Float32 weight of any shape; nothing is differentiable in it.
        terms: Number of terms M, 1 to 4.
        factor: Multiple of the mean magnitude, >= 0.
        iterations: Rounds of fitting and coding, >= 0.
        per_channel: One level per term and output channel instead of one per term.
        channel_axis: Axis of the output channels.
        mask: bool, True where a weight counts; the others get code zero.

    Returns:
        Terms in the order of falling levels.

    Example:
        >>> import torch
        >>> found = multilevel(torch.tensor([[4.0, -4.0, 4.0, 1.0, -1.0, 0.0]]), terms=2)
        >>> found.dequantize(), found.positive.flatten()
        (tensor([[ 4., -4.,  4.,  1., -1.,  0.]]), tensor([4., 1.]))
    """
    weight = weight.detach()
    rows, size, steps, levels = _fitted(weight, terms, factor, iterations, per_channel, channel_axis, mask)
    codes = shaped(steps.codes(rows, size), weight, channel_axis, per_channel)
    return TernaryTensor(codes, levels, levels, channel_axis)


def multilevel_values(
    weight: Tensor,
    terms: int = 2,
    factor: float = 0.7,
    iterations: int = 1,
    per_channel: bool = False,
    channel_axis: int = 0,
    mask: Tensor | None = None,
    spare: SpareMemory | None = None,
) -> Tensor:
    """The values of :func:`multilevel`, without its codes on the way, in memory of ``spare``."""
    weight = weight.detach()
    rows, size, steps, levels = _fitted(weight, terms, factor, iterations, per_channel, channel_axis, mask)
    return shaped(steps.values(rows, size, levels, spare), weight, channel_axis, per_channel)


def _fitted(
    weight: Tensor,
    terms: int,
    factor: float,
    iterations: int,
    per_channel: bool,
    channel_axis: int,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Steps, Tensor]:
    """Rows ``[C, n]`` of a weight, their magnitudes and codes, and levels that fall from term to term."""
    if not 1 <= terms <= 4:
        raise ValueError(f"terms must be in 1 to 4, got {terms}")
    keep = None if mask is None else to_rows(mask, channel_axis, per_channel)
    rows, size = magnitudes(to_rows(weight, channel_axis, per_channel), keep)
    count = row_count(weight, channel_axis, per_channel, mask).clamp_min(1)
    steps, levels = residual(size, count, terms, factor)
    for _ in range(iterations):
        steps = nearest(levels)
        levels = steps.levels(size)
    return rows, size, *steps.sorted(levels)


def limit_codes(codes: Tensor, limit: Tensor) -> Tensor:
    """Codes ``[terms, *shape]`` without the digits beyond ``limit`` (int8, ``shape``) terms of every weight."""
    terms = torch.arange(len(codes), device=codes.device).reshape(-1, *[1] * limit.ndim)
    return codes * (terms < limit)


def limit_terms(weight: Tensor, ternary: TernaryTensor, limit: Tensor, symmetric: bool = True) -> TernaryTensor:
    """Take digits away from a weight of several terms and fit the levels to what is left.

    Args:
        weight: Float32 weight.
        ternary: Its ternary form.
        limit: int8, the weight's shape, how many terms, from the first on, every weight may have.
        symmetric: One level for both signs of a term.

    Example:
        >>> import torch
        >>> found = multilevel(torch.tensor([[4.0, -4.0, 5.0, 1.0]]), terms=2)
        >>> limit_terms(torch.tensor([[4.0, -4.0, 5.0, 1.0]]), found, torch.ones(1, 4, dtype=torch.int8)).dequantize()
        tensor([[ 4.3333, -4.3333,  4.3333,  0.0000]])
    """
    codes = limit_codes(ternary.codes, limit)
    per_channel = ternary.positive.shape[1] > 1
    own = frozen_levels(weight.detach(), codes, symmetric, per_channel, ternary.channel_axis)
    # Least squares can turn the level of a few contradicting digits round.
    good = (own.positive > 0).all() & (own.negative > 0).all()
    positive, negative = (
        torch.where(good, own.positive, ternary.positive),
        torch.where(good, own.negative, ternary.negative),
    )
    return TernaryTensor(codes, positive, negative, ternary.channel_axis)


def multilevel_activation(x: Tensor, levels: Tensor, signed: bool = False) -> Tensor:
    r"""Round a tensor to a sum of ternary digits, one for every level.

    .. math:: e_1 = x, \quad S_i = \mathrm{tern}(e_i; \gamma_i / 2), \quad e_{i+1} = e_i - \gamma_i S_i, \quad
        y = \sum_i \gamma_i S_i

    with :math:`S_i \in \{0, 1\}`, or :math:`\{-1, 0, 1\}` if signed. ReBNet: Residual Binarized Neural Network (2018)
    has digits -1 and +1; a threshold of half a level rounds to the nearest instead and lets small
    values have no digit at all. Equal levels give the uniform values 0, g, .., M g. The gradient passes straight
    through where :math:`|x| \le \sum \gamma_i` (and x > 0 if unsigned); that of :math:`\gamma_i` is :math:`S_i` summed
    over the elements, later residuals counting as constants.

    Args:
        x: Any float tensor.
        levels: float32 ``[M]``, positive, falling for the best rounding.
        signed: Whether digits may be negative.
    """
    digits = activation_digits(x.detach(), levels.detach(), signed)
    top = levels.detach().sum().to(x.dtype)
    inside = (x.detach().abs() <= top) if signed else (x.detach() > 0) & (x.detach() <= top)
    value = sum(level * digit for level, digit in zip(levels.to(x.dtype), digits.to(x.dtype), strict=True))
    return value + (x - x.detach()) * inside


def activation_digits(x: Tensor, levels: Tensor, signed: bool = False) -> Tensor:
    """The digits of :func:`multilevel_activation`, int8 ``[M, *x.shape]``."""
    residual, digits = x.float(), []
    for level in levels.float():
        digit = (residual > level / 2).to(torch.int8)
        if signed:
            digit = digit - (residual < -level / 2).to(torch.int8)
        digits.append(digit)
        residual = residual - level * digit
    return torch.stack(digits)
