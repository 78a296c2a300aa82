"""Weights as sums of several ternary terms: residual ternarization, least-squares levels, nearest codes."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from tern_lightning.functional.frozen import frozen_levels, pseudoinverse
from tern_lightning.functional.shared import row_count, row_dots, to_rows
from tern_lightning.products import scaled
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
    :math:`\min_\alpha \|W - \sum_i \alpha_i T_i\|^2` as in Towards Accurate Binary Convolutional Neural Network (2017)
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
    if not 1 <= terms <= 4:
        raise ValueError(f"terms must be in 1 to 4, got {terms}")
    weight = weight.detach()
    rows = to_rows(weight if mask is None else scaled(mask, weight), channel_axis, per_channel)
    count = row_count(weight, channel_axis, per_channel, mask).clamp_min(1)
    codes = _residual_codes(rows, count, terms, factor)
    levels = _solve(rows, codes)
    for _ in range(iterations):
        codes = _nearest(rows, levels, out=codes)
        levels = _solve(rows, codes)
    levels, codes = _positive_and_sorted(levels, codes.to(torch.int8))
    if per_channel:
        codes = codes.reshape(terms, *weight.movedim(channel_axis, 0).shape).movedim(1, channel_axis + 1)
    return TernaryTensor(codes.reshape(terms, *weight.shape), levels, levels, channel_axis)


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


def _residual_codes(rows: Tensor, count: Tensor, terms: int, factor: float) -> Tensor:
    """Codes float32 ``[terms, C, n]`` of successive residuals of ``[C, n]``, of which ``count`` are not pruned."""
    codes, residual = rows.new_empty(terms, *rows.shape), rows.clone()
    step = torch.empty_like(rows)
    for code in codes:
        bound = (factor * torch.abs(residual, out=step).sum(1) / count)[:, None]
        torch.gt(residual, bound, out=code).sub_(torch.lt(residual, -bound, out=step))
        chosen = torch.abs(code, out=step).sum(1).clamp_min(1)
        level = row_dots(code, residual) / chosen
        residual.sub_(torch.mul(code, level[:, None], out=step))
    return codes


def _solve(rows: Tensor, codes: Tensor) -> Tensor:
    """Least-squares levels ``[terms, C]`` of float codes; where a term is empty or repeats another, of least norm."""
    # The pseudoinverse of the small Gram matrix is a constant, so that the levels are linear in the weights. Its
    # entries are counts, exact in float32 up to 2**24.
    pairs = [[row_dots(one, other) for other in codes[: i + 1]] for i, one in enumerate(codes)]
    lower = [[pairs[max(i, j)][min(i, j)] for j in range(len(codes))] for i in range(len(codes))]
    gram = torch.stack([torch.stack(line, -1) for line in lower], -1).double()
    sums = torch.stack([row_dots(one, rows) for one in codes], -1).double()
    levels = (pseudoinverse(gram) @ sums[..., None]).squeeze(-1).T
    empty = gram.diagonal(dim1=1, dim2=2).T == 0
    return torch.where(empty, torch.ones_like(levels), levels).float()


def _nearest(rows: Tensor, levels: Tensor, out: Tensor) -> Tensor:
    """The codes whose sum is nearest to every weight of ``[C, n]``, written to float ``out [terms, C, n]``."""
    # A sum's negative is a sum as well: zero, and the positive one of every pair, serve both signs.
    digits = torch.tensor(list(itertools.product((-1, 0, 1), repeat=len(levels))), device=rows.device)
    digits = digits[len(digits) // 2 :]
    # Of equal sums the one with most zeros.
    digits = digits[(digits != 0).sum(1).argsort(stable=True)].to(levels)
    signed = (digits @ levels).T.contiguous()
    sums, order = torch.sort(signed.abs(), dim=1, stable=True)
    middle = (sums[:, 1:] + sums[:, :-1]) / 2
    # Comparisons one after the other are several times as fast as torch.searchsorted, and twice as fast into floats.
    size, above = rows.abs(), torch.empty_like(rows)
    index = torch.zeros_like(rows)
    for bound in middle.unbind(1):
        index.add_(torch.gt(size, bound[:, None], out=above))
    # [terms, C, sums]: the digits of every sum, in the order of the sums of a channel.
    table = digits.T[:, order] * torch.where(signed < 0, -1.0, 1.0).to(levels).gather(1, order)
    at, sign = index.long(), torch.sign(rows, out=size)
    for digit, codes in zip(table, out, strict=True):
        torch.gather(digit, 1, at, out=codes).mul_(sign)
    return out


def _positive_and_sorted(levels: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Turn negative levels round and bring the terms of every channel in the order of falling levels."""
    signs = torch.where(levels < 0, -1, 1).to(codes.dtype)
    levels, order = torch.sort(levels.abs(), dim=0, descending=True, stable=True)
    ordered = codes[order, torch.arange(codes.shape[1], device=codes.device)]
    return levels, ordered.mul_(signs.gather(0, order)[..., None])


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
