"""Levels of a frozen assignment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor

from tern_lightning.functional.blocks import blocks, exporting, joined, viewed
from tern_lightning.functional.shared import spread, to_rows
from tern_lightning.functional.spare import SpareMemory
from tern_lightning.ternary_tensor import TernaryTensor

TINY = 1e-20
"""The least magnitude of a level by which something is divided."""


@dataclass(frozen=True)
class FrozenCodes:
    """Codes that no longer change, with the one part of their levels that does not depend on the weight.

    Attributes:
        codes: int8 ``[terms, *weight.shape]``.
        inverse: Pseudoinverse of the Gram matrix of the columns, float64 ``[C, columns, columns]``. A term is a column,
            or two of them, one per sign; ``C`` is 1 or the number of output channels.
        empty: bool ``[columns, C]``, the columns without a code, whose level is one.
        symmetric: One level for both signs.
        per_channel: One level (pair) per output channel instead of one for the layer.
        channel_axis: Axis of the output channels in the weight.
        spare: Memory of weights and gradients that are no longer used, or None.
    """

    codes: Tensor
    inverse: Tensor
    empty: Tensor
    symmetric: bool = True
    per_channel: bool = False
    channel_axis: int = 0
    spare: SpareMemory | None = field(default=None, repr=False, compare=False)

    @classmethod
    @torch.no_grad()
    def of(cls, codes: Tensor, symmetric: bool = True, per_channel: bool = False, channel_axis: int = 0) -> FrozenCodes:
        """Prepare codes int8 ``[terms, *weight.shape]``; this costs as much as several uses of them."""
        rows = [to_rows(column, channel_axis, per_channel) for column in _columns(codes, symmetric)]
        basis = torch.stack(rows, 1)
        gram = (basis @ basis.mT).double()
        # Counts, exact in float32 up to 2**24; those of the diagonal also beyond, because they are sums in float64.
        sizes = torch.stack([row.abs().sum(1, dtype=torch.float64) for row in rows])
        gram.diagonal(dim1=1, dim2=2).copy_(sizes.T)
        inverse = pseudoinverse(gram)
        return cls(codes, inverse, sizes == 0, symmetric, per_channel, channel_axis, SpareMemory())

    def to(self, device: torch.device) -> FrozenCodes:
        """The same on a device."""
        if self.codes.device == device:
            return self
        codes, inverse, empty = (part.to(device) for part in (self.codes, self.inverse, self.empty))
        return replace(self, codes=codes, inverse=inverse, empty=empty)

    def levels(self, latent: Tensor) -> TernaryTensor:
        """The codes with the levels that are nearest to a float32 weight, differentiable in it."""
        levels = self._levels(latent)
        positive, negative = (levels, levels) if self.symmetric else levels.chunk(2)
        return TernaryTensor(self.codes, positive, negative, self.channel_axis)

    def values(self, latent: Tensor) -> Tensor:
        """The weight with these codes that is nearest to ``latent``, of its type; see :func:`frozen_levels`.

        The gradient is that of the levels, at the cost of a second projection.
        """
        spare = None if torch.compiler.is_compiling() else self.spare
        rule = (self.symmetric, self.per_channel, self.channel_axis, spare)
        found: Tensor = _Project.apply(latent, self.codes, self.inverse, self.empty, rule)
        return found

    def _levels(self, latent: Tensor) -> Tensor:
        """Levels ``[columns, C]``."""
        rows, *terms = (to_rows(one, self.channel_axis, self.per_channel) for one in (latent, *self.codes))
        parts = [
            torch.stack([(column * block).sum(1) for column in _columns(codes, self.symmetric)])
            for block, *codes in blocks(rows, *terms)
        ]
        return self._fit(joined(parts, len(rows))).masked_fill(self.empty, 1.0)

    def _fit(self, sums: Tensor) -> Tensor:
        """Levels ``[columns, C]`` of scalar products with the weight; zero for empty columns."""
        if len(sums) == 1:
            # A product of scalars, for which a matrix product takes many times as long.
            return (sums * self.inverse[:, 0, 0]).float()
        return (self.inverse @ sums.double().T[..., None]).squeeze(-1).T.float()

    @property
    def one_level(self) -> bool:
        """Whether the weight is the codes times one number."""
        return self.symmetric and not self.per_channel and len(self.codes) == 1

    def weigh(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Where there is one level: weight and level ``[1, 1]``, never zero, of a contiguous float32 latent."""
        found = self._empty(latent)
        out, rows, codes = (one.view(1, -1) for one in (found, latent, self.codes))
        level = self._fit(self._first_column(out, rows, [codes]))
        # By one that is so small, outputs do not change.
        level = torch.where(level.abs() < TINY, TINY, level)
        out.mul_(level)
        return found, level

    def gradient(self, product: Tensor) -> Tensor:
        """Gradient of the latent weight, where there is one level, of the product ``[1, 1]`` of codes and gradient."""
        found = self._empty(self.codes[0])
        amount = (product * self.inverse[:, 0]).float()
        for into, codes in blocks(found.view(1, -1), self.codes.view(1, -1)):
            into.copy_(codes).mul_(amount)
        return found

    def _project(self, latent: Tensor) -> Tensor:
        found = self._empty(latent)
        views = [viewed(one, self.channel_axis, self.per_channel) for one in (found, latent.float(), *self.codes)]
        # In an exported program every operator has its own gradient, and those that write in place have none.
        if any(view is None for view in views) or exporting():
            columns = zip(self._levels(latent.float()), _columns(self.codes, self.symmetric), strict=True)
            parts = [column.mul_(spread(_as(level, latent), found, self.channel_axis)) for level, column in columns]
            return sum(parts[1:], parts[0]).to(latent.dtype)
        out, rows, *terms = cast(list[Tensor], views)
        level, *others = _as(self._fit(self._first_column(out, rows, terms)), latent)[..., None].unbind()
        out.mul_(level)
        for into, *both in blocks(out, *terms, *others) if others else ():
            later = islice(_columns(both[: len(terms)], self.symmetric), 1, None)
            for other, column in zip(both[len(terms) :], later, strict=True):
                into.add_(column.mul_(other))
        return found.to(latent.dtype)

    def _first_column(self, out: Tensor, rows: Tensor, terms: Sequence[Tensor]) -> Tensor:
        """Scalar products ``[columns, C]`` of all columns with the rows, and the first column in ``out``."""
        cut = blocks(out, rows, *terms)
        work, parts = torch.empty_like(cut[0][0]), []
        for into, block, *codes in cut:
            # The first column is made where the result will be, because fresh memory costs more than the arithmetic.
            product = work if work.shape == into.shape else work[: len(into), : into.shape[1]]
            sums = [torch.mul(one, block, out=product).sum(1) for one in _columns(codes, self.symmetric, into)]
            parts.append(sums[0][None] if len(sums) == 1 else torch.stack(sums))
        return joined(parts, len(rows))

    def _empty(self, like: Tensor) -> Tensor:
        return torch.empty_like(like, dtype=torch.float32) if self.spare is None else self.spare.empty_like(like)


Rule = tuple[bool, bool, int, SpareMemory | None]


class _Project(torch.autograd.Function):
    """The orthogonal projection on the weights that the codes allow, which is its own adjoint."""

    @staticmethod
    def forward(latent: Tensor, codes: Tensor, inverse: Tensor, empty: Tensor, rule: Rule) -> Tensor:
        return FrozenCodes(codes, inverse, empty, *rule)._project(latent)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *tensors, ctx.rule = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Without a second derivative the node that it would need is not made.
        if torch.is_grad_enabled():
            own = _Project.apply(grads[0], *ctx.saved_tensors, ctx.rule)
        else:
            own = FrozenCodes(*ctx.saved_tensors, *ctx.rule)._project(grads[0])
        return own, None, None, None, None


def _as(level: Tensor, latent: Tensor) -> Tensor:
    """A float32 level with the precision of the weight."""
    return level if latent.dtype == torch.float32 else level.to(latent.dtype).float()


def _columns(codes: Iterable[Tensor], symmetric: bool, into: Tensor | None = None) -> Iterator[Tensor]:
    """What the levels multiply, float32 of the codes' shape: every term, or its positive and then its negative codes.

    The first one is written ``into`` a tensor where one is given.
    """
    for sign in (0,) if symmetric else (1, -1):
        for term in codes:
            column, into = term.float() if into is None else into.copy_(term), None
            yield column if symmetric else column.clamp_(min=0) if sign > 0 else column.clamp_(max=0)


def pseudoinverse(gram: Tensor) -> Tensor:
    """Pseudoinverses of Gram matrices of integer vectors, float64 ``[C, k, k]``."""
    if gram.shape[-1] > 2:
        return torch.linalg.pinv(gram, hermitian=True)
    # Closed forms, exact where products of counts are, because a decomposition per channel costs more than all else.
    trace = gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    rank_one = gram / trace[..., None].square().clamp_min(1)
    if gram.shape[-1] == 1:
        return rank_one
    adjugate = gram.neg()
    adjugate.diagonal(dim1=1, dim2=2).add_(trace)
    determinant = (gram[:, :1] * adjugate[:, :1]).sum(2, keepdim=True)
    return torch.where(determinant > 0, adjugate / determinant.clamp_min(1), rank_one)


def frozen_levels(
    latent: Tensor, codes: Tensor, symmetric: bool = True, per_channel: bool = False, channel_axis: int = 0
) -> TernaryTensor:
    r"""Read the levels out of a latent weight whose codes are fixed, so that training the latent trains the levels.

    .. math:: p = E(W : T = +1), \quad n = -E(W : T = -1), \quad \text{or } p = n = E(T W : T \ne 0)

    The chain rule through the mean gives every latent weight of a class the same gradient,
    :math:`dW_i = T_i S / N`, with :math:`S = \sum_{T_j \ne 0} T_j G_j` the level's own gradient and :math:`N` the
    number of weights that share the level. It is the orthogonal projection of the weight gradient :math:`G` on the
    weights that the codes allow. So the level goes on at the speed at which it moved before the freeze, whatever the
    optimizer, and the gradient's norm (clipping, loss scaling) stays what it was. A level trained as a parameter of
    its own, as in Trained Ternary Quantization (2017), equation 7, receives :math:`S` itself and moves :math:`N` times
    as fast under plain gradient descent; adaptive optimizers see hardly a difference.

    The levels of several terms are those of least squares, :math:`\alpha = (B^\top B)^+ B^\top W` with one column of B
    per term, or per term and sign; for one term that is the mean above.

    Args:
        latent: Float32 weight of any shape. The result's levels are differentiable in it.
        codes: int8, the shape of ``latent``, or ``[terms, *latent.shape]``.
        symmetric: One level for both signs.
        per_channel: One level (pair) per output channel instead of one for the layer.
        channel_axis: Axis of the output channels.

    Returns:
        The codes and their levels; where no weight has a code, the level is one.

    Example:
        >>> import torch
        >>> codes = torch.tensor([[1, 1, -1]], dtype=torch.int8)
        >>> frozen_levels(torch.tensor([[1.0, 3.0, -4.0]]), codes, symmetric=False).negative
        tensor([[4.]])
    """
    terms = codes[None] if codes.ndim == latent.ndim else codes
    return FrozenCodes.of(terms, symmetric, per_channel, channel_axis).levels(latent)
