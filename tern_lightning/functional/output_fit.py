"""Ternary codes and levels for a trained weight that keep a layer's outputs on data, rather than the weight itself."""

from __future__ import annotations

import torch
from torch import Tensor

SWEEPS = 8
"""How often all codes are looked at, with levels fitted after each time."""
GRADUAL = 4
"""Over how many of these the number of codes comes down to the one that is asked for."""
BLOCK = 128
"""Columns after which changes reach the residual of all others."""
EXACT = 1024
"""Weights of at most so many inputs are computed in float64."""


def fit_outputs(weight: Tensor, gram: Tensor, codes: Tensor, zeros: float | None = None) -> tuple[Tensor, Tensor]:
    r"""Choose ternary codes whose errors make up for each other on the inputs that a layer gets.

    For one output :math:`w`, inputs :math:`X` and :math:`G = X^T X`, the error of the output over the data is

    .. math:: E(q) = \|X w - X q\|^2 = (w - q)^T G \, (w - q)

    Cyclic coordinate descent: with all others fixed, the best value of input j is
    :math:`u_j = q_j + [(w - q) G]_j / G_{jj}`, and a code of level :math:`\alpha` saves
    :math:`G_{jj} (2 \alpha |u_j| - \alpha^2)` against a zero; it is taken where that is positive, which is where
    :math:`|u_j| > \alpha / 2`. QuantEase: Optimization-based Quantization for Language Models (2023), section 3, has
    the same for grids of fixed steps. Here levels are fitted by least squares after every sweep, and with a share of
    zeros only the codes that save most are taken, fewer from sweep to sweep until they are few enough. Several terms
    take turns, each for what the others leave; with a share of zeros the first one says before which weights are zero.
    Of all that is tried, and of the given codes, every output keeps the best.

    Args:
        weight: Trained weight, ``[outputs, inputs]``.
        gram: :math:`G` over the data, ``[inputs, inputs]``, symmetric.
        codes: Codes to start from, int8 ``[terms, outputs, inputs]``.
        zeros: Share of weights that are zero in every output at least, in [0, 1); None lets the error decide.

    Returns:
        Codes of the same shape, and float32 levels ``[terms, outputs]`` >= 0.

    Example:
        >>> gram = torch.tensor([[1.0, 0.9], [0.9, 1.0]])  # two inputs that are nearly the same
        >>> start = torch.tensor([[[1, 1]]], dtype=torch.int8)
        >>> codes, levels = fit_outputs(torch.tensor([[1.0, 0.2]]), gram, start, zeros=0.5)
        >>> codes.tolist(), levels
        ([[[1, 0]]], tensor([[1.1800]]))
    """
    kind = torch.float64 if weight.shape[1] <= EXACT else torch.float32
    values, product = weight.to(kind), gram.to(kind)
    seen = product.diagonal() > 0  # the data have no other inputs
    if zeros is None:
        best, fitted = _descend(values, product, codes * seen, len(seen))
    else:
        best, fitted = _descend(values, product, codes[:1] * seen, int(len(seen) * (1 - zeros) + 1e-6))
        if len(codes) > 1:
            start = torch.cat([best, torch.zeros_like(codes[1:])])
            best, fitted = _descend(values, product, start, len(seen), allowed=best[0] != 0)
    return best, fitted.float()


def matched(weight: Tensor, gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    r"""The weight that makes of a layer's inputs, as nearly as possible, what another weight makes of other ones.

    The inputs :math:`X` of a layer behind ternary layers are not those :math:`Y` of the float network. What minimizes
    :math:`\|Y w - X v\|^2 + \lambda \|w - v\|^2` is

    .. math:: v = w + (X^T X + \lambda I)^{-1} (X^T Y - X^T X) \, w

    so that the layer makes up for errors of those before it, as in A Greedy Algorithm for Quantizing Neural Networks
    (2021), equation 2, which compares outputs in the same way.

    Args:
        weight: :math:`w`, ``[outputs, inputs]``.
        gram: :math:`X^T X`, ``[inputs, inputs]``.
        cross: :math:`X^T Y`, ``[inputs, inputs]``.
        ridge: :math:`\lambda` as a share of the mean of the diagonal of ``gram``, > 0.

    Returns:
        ``[outputs, inputs]``.

    Example:
        >>> inputs, wanted = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]])
        >>> matched(torch.tensor([[3.0]]), inputs.T @ inputs, inputs.T @ wanted, 1e-6)
        tensor([[6.0000]])
    """
    strength = ridge * gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    held = gram + strength * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return weight + torch.linalg.solve(held, (cross - gram) @ weight.T).T


def _descend(
    weight: Tensor, gram: Tensor, codes: Tensor, most: int, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The best codes and levels found, with at most ``most`` codes in an output, and only where they are allowed."""
    best, best_levels = fit_levels(weight, gram, codes)
    least = output_error(weight, gram, best, best_levels)
    counts = (best != 0).any(0).sum(1)
    least = torch.where(counts > most, torch.inf, least)  # with too few zeros it is no answer, however good
    now, level = best.to(weight), best_levels.clone()
    for term in range(1, len(level)):
        empty = (best[term] == 0).all(-1)
        level[term] = torch.where(empty, level[term - 1] / 2, level[term])
    begun = int(counts.max())
    for sweep in range(SWEEPS):
        limit = max(most, round(begun + min(1.0, (sweep + 1) / GRADUAL) * (most - begun)))
        for term in range(len(now)):
            others = [index for index in range(len(now)) if index != term]
            target = weight - (level[others, :, None] * now[others]).sum(0)
            now[term] = _sweep(target, gram, now[term], level[term], limit, allowed)
        tried, level = fit_levels(weight, gram, now.to(torch.int8))
        now = tried.to(weight)
        error = output_error(weight, gram, tried, level)
        better = (error < least) & (limit == most)
        least = torch.where(better, error, least)
        best = torch.where(better[:, None], tried, best)
        best_levels = torch.where(better, level, best_levels)
    return best, best_levels


def output_error(weight: Tensor, gram: Tensor, codes: Tensor, levels: Tensor) -> Tensor:
    """The squared error of every output over the data, ``[outputs]``; see :func:`fit_outputs`."""
    left = weight - (levels[..., None] * codes).sum(0)
    return ((left @ gram) * left).sum(1)


def fit_levels(weight: Tensor, gram: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Levels of least output error for given codes; a term whose level would be negative turns its codes around.

    Args:
        weight: ``[outputs, inputs]``.
        gram: ``[inputs, inputs]``.
        codes: int8 ``[terms, outputs, inputs]``.

    Returns:
        Codes, and levels ``[terms, outputs]`` >= 0 of the weight's type; without any code a level is 1.
    """
    wide = codes.to(weight)
    seen = wide @ gram
    normal = torch.einsum("ain,bin->iab", seen, wide).double()
    wanted = torch.einsum("ain,in->ia", seen, weight).double()
    # Terms that are equal or empty have no solution of their own: the smallest one is taken.
    levels = (torch.linalg.pinv(normal, rtol=1e-9, hermitian=True) @ wanted[..., None])[..., 0].T.to(weight)
    turned = torch.where(levels < 0, -1, 1).to(torch.int8)
    empty = (codes == 0).all(-1)
    return codes * turned[..., None], torch.where(empty, torch.ones_like(levels), levels.abs())


def _sweep(target: Tensor, gram: Tensor, codes: Tensor, level: Tensor, most: int, allowed: Tensor | None) -> Tensor:
    """One look at every code of one term, as floats, with at most ``most`` codes other than zero in an output."""
    size = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny)
    order = size.argsort(descending=True, stable=True)
    values = level[:, None] * codes
    left = (target - values) @ gram
    saved = _saved(values + left / size, size, level[:, None], allowed)
    cut = level.new_zeros(len(level))
    if most < saved.shape[1]:
        cut = saved.topk(most + 1).values[:, -1].clamp_min(0)
    for start in range(0, len(order), BLOCK):
        columns = order[start : start + BLOCK]
        inner, rest, moved = gram[columns][:, columns], left[:, columns], values[:, columns].clone()
        for index, column in enumerate(columns.tolist()):
            wanted = values[:, column] + rest[:, index] / size[column]
            gain = _saved(wanted, size[column], level, None if allowed is None else allowed[:, column])
            chosen = level * wanted.sign() * (gain > cut)
            rest = rest - (chosen - values[:, column])[:, None] * inner[index]
            values[:, column] = chosen
        left = left - (values[:, columns] - moved) @ gram[columns]
    if most < saved.shape[1]:  # the cut was that of the start
        saved = _saved(values + left / size, size, level[:, None], allowed).masked_fill(values == 0, -torch.inf)
        kept = torch.zeros_like(values, dtype=torch.bool).scatter_(1, saved.topk(most).indices, True)
        values = values * kept
    return values.sign()


def _saved(wanted: Tensor, size: Tensor, level: Tensor, allowed: Tensor | None) -> Tensor:
    """How much less the error is with a code than with a zero."""
    found = size * (2 * level * wanted.abs() - level * level)
    return found if allowed is None else found.masked_fill(~allowed, -torch.inf)
