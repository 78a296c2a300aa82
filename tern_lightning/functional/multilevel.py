"""Weights as sums of several ternary terms: residual ternarisation, least-squares levels, nearest codes."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from tern_lightning.functional.shared import row_flags, signs, to_rows
from tern_lightning.products import scaled
from tern_lightning.tensor import TernaryTensor


def multilevel(
    weight: Tensor,
    terms: int = 2,
    factor: float = 0.7,
    iterations: int = 1,
    per_channel: bool = False,
    channel_axis: int = 0,
    mask: Tensor | None = None,
) -> TernaryTensor:
    r"""Ternarise the residual of the terms before, then fit all levels together and code every weight anew.

    .. math:: r_0 = W, \quad T_i = \mathrm{sign}(r_{i-1}) [|r_{i-1}| > \Delta_i], \quad
        \Delta_i = 0.7 \, E|r_{i-1}|, \quad \alpha_i = E(|r_{i-1}| : T_i \ne 0), \quad r_i = r_{i-1} - \alpha_i T_i

    That much is Ternary Weight Networks (2016), equations 4 and 6, on residuals. Every iteration then solves
    :math:`\min_\alpha \|W - \sum_i \alpha_i T_i\|^2` as in Towards Accurate Binary Convolutional Neural Network (2017)
    and gives every weight the nearest of the :math:`3^M` sums, as LQ-Nets (2018) does for binary
    terms. Neither can raise the squared error.

    Args:
        weight: Float32 weight of any shape.
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
    if not 1 <= terms <= 4:
        raise ValueError(f"terms must be in 1 to 4, got {terms}")
    keep = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask
    rows = to_rows(torch.where(keep, weight, torch.zeros_like(weight)), channel_axis, per_channel)
    kept = to_rows(keep, channel_axis, per_channel)
    codes = _residual_codes(rows, kept, terms, factor)
    levels = _solve(rows, codes)
    for _ in range(iterations):
        codes = _nearest(rows, kept, levels)
        levels = _solve(rows, codes)
    levels, codes = _positive_and_sorted(levels, codes)
    shaped = torch.stack([_from_rows(term, weight, channel_axis, per_channel) for term in codes])
    return TernaryTensor(shaped, levels, levels, channel_axis)


def fit_levels(
    latent: Tensor, codes: Tensor, symmetric: bool = True, per_channel: bool = False, channel_axis: int = 0
) -> TernaryTensor:
    r"""Read the levels of fixed codes of several terms out of a latent weight, by least squares.

    :math:`\alpha = (B^\top B)^+ B^\top W` with one column of B per term, or per term and sign. For one term this is the
    conditional mean. Every latent weight's gradient is that of :math:`B \alpha`, which is the orthogonal projection of
    the weight gradient on what the codes allow.

    Args:
        latent: Float32 weight. The result's levels are differentiable in it.
        codes: int8 ``[terms, *latent.shape]``.
        symmetric: One level for both signs of a term.
        per_channel: Levels per output channel instead of for the layer.
        channel_axis: Axis of the output channels.
    """
    columns = codes if symmetric else torch.cat([(codes > 0).to(codes), -(codes < 0).to(codes)])
    rows = to_rows(latent, channel_axis, per_channel)
    basis = torch.stack([to_rows(column, channel_axis, per_channel) for column in columns])
    levels = _solve(rows, basis)
    positive, negative = (levels, levels) if symmetric else levels.chunk(2)
    return TernaryTensor(codes, positive, negative, channel_axis)


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
    own = fit_levels(weight.detach(), codes, symmetric, per_channel, ternary.channel_axis)
    # Least squares can turn the level of a few contradicting digits round.
    good = (own.positive > 0).all() & (own.negative > 0).all()
    positive, negative = (
        torch.where(good, own.positive, ternary.positive),
        torch.where(good, own.negative, ternary.negative),
    )
    return TernaryTensor(codes, positive, negative, ternary.channel_axis)


def _residual_codes(rows: Tensor, kept: Tensor, terms: int, factor: float) -> Tensor:
    """Codes int8 ``[terms, C, n]`` of successive residuals of ``[C, n]``."""
    residual, codes = rows, []
    count = row_flags(kept)[:, None].clamp_min(1)
    for _ in range(terms):
        size = residual.abs()
        chosen = (size > factor * size.sum(1, keepdim=True) / count) & kept
        level = scaled(chosen, size).sum(1, keepdim=True) / row_flags(chosen)[:, None].clamp_min(1)
        code = signs(residual, chosen)
        codes.append(code)
        residual = residual - scaled(code, level)
    return torch.stack(codes)


def _solve(rows: Tensor, codes: Tensor) -> Tensor:
    """Least-squares levels ``[terms, C]``; where a term is empty or repeats another, those of least norm."""
    basis = codes.transpose(0, 1).to(rows.dtype)
    # The pseudoinverse of the small Gram matrix is a constant, so that the levels are linear in the weights. Its
    # entries are counts, exact in float32 up to 2**24.
    inverse = torch.linalg.pinv((basis @ basis.mT).double(), hermitian=True)
    levels = (inverse @ (basis @ rows[..., None]).double()).squeeze(-1).T
    empty = (codes == 0).all(2)
    return torch.where(empty, torch.ones_like(levels), levels).float()


def _nearest(rows: Tensor, kept: Tensor, levels: Tensor) -> Tensor:
    """The codes ``[terms, C, n]`` whose sum is nearest to every weight of ``[C, n]``."""
    digits = list(itertools.product((-1, 0, 1), repeat=len(levels)))
    every = torch.tensor(digits, dtype=torch.int8, device=rows.device)
    # Of equal sums the one with most zeros.
    every = every[(every != 0).sum(1).argsort(stable=True)]
    sums, order = torch.sort((every.to(levels) @ levels).T.contiguous(), dim=1, stable=True)
    middle = (sums[:, 1:] + sums[:, :-1]) / 2
    # Comparisons one after the other are two to eight times as fast as torch.searchsorted.
    below = torch.zeros_like(rows, dtype=torch.uint8)
    for bound in middle.unbind(1):
        below += rows > bound[:, None]
    index = below.long()
    # [terms, C, sums]: the digits of every sum, in the order of the sums of a channel.
    table = every.T[:, order]
    return torch.stack([digit.gather(1, index) * kept for digit in table])


def _positive_and_sorted(levels: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Turn negative levels round and bring the terms of every channel in the order of falling levels."""
    codes = torch.where(levels[..., None] < 0, -codes, codes)
    levels, order = torch.sort(levels.abs(), dim=0, descending=True, stable=True)
    return levels, codes.gather(0, order[..., None].expand_as(codes))


def _from_rows(rows: Tensor, weight: Tensor, channel_axis: int, per_channel: bool) -> Tensor:
    """Undo :func:`tern_lightning.functional.shared.to_rows`."""
    if not per_channel:
        return rows.reshape(weight.shape)
    return rows.reshape(weight.movedim(channel_axis, 0).shape).movedim(0, channel_axis)


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
