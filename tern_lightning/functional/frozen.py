"""Levels of a frozen assignment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tern_lightning.functional.shared import row_dots, spread, to_rows
from tern_lightning.ternary_tensor import TernaryTensor


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
    """

    codes: Tensor
    inverse: Tensor
    empty: Tensor
    symmetric: bool = True
    per_channel: bool = False
    channel_axis: int = 0

    @classmethod
    @torch.no_grad()
    def of(cls, codes: Tensor, symmetric: bool = True, per_channel: bool = False, channel_axis: int = 0) -> FrozenCodes:
        """Prepare codes int8 ``[terms, *weight.shape]``; this costs as much as several uses of them."""
        columns = list(_columns(codes, symmetric))
        basis = torch.stack([to_rows(column, channel_axis, per_channel) for column in columns], 1).float()
        gram = (basis @ basis.mT).double()
        # Counts, exact in float32 up to 2**24; those of the diagonal also beyond, because they are sums of integers.
        sizes = torch.stack([to_rows(column.abs(), channel_axis, per_channel).sum(1) for column in columns])
        gram.diagonal(dim1=1, dim2=2).copy_(sizes.T)
        inverse = pseudoinverse(gram)
        return cls(codes, inverse, sizes == 0, symmetric, per_channel, channel_axis)

    def to(self, device: torch.device) -> FrozenCodes:
        """The same on a device."""
        if self.codes.device == device:
            return self
        codes, inverse, empty = (part.to(device) for part in (self.codes, self.inverse, self.empty))
        return replace(self, codes=codes, inverse=inverse, empty=empty)

    def levels(self, latent: Tensor) -> TernaryTensor:
        """The codes with the levels that are nearest to a float32 weight, differentiable in it."""
        levels = self._levels(list(self._columns()), latent)
        positive, negative = (levels, levels) if self.symmetric else levels.chunk(2)
        return TernaryTensor(self.codes, positive, negative, self.channel_axis)

    def values(self, latent: Tensor) -> Tensor:
        """The weight with these codes that is nearest to ``latent``, of its type; see :func:`frozen_levels`.

        The gradient is that of the levels, at the cost of a second projection.
        """
        rule = (self.symmetric, self.per_channel, self.channel_axis)
        found: Tensor = _Project.apply(latent, self.codes, self.inverse, self.empty, rule)
        return found

    def _columns(self) -> Iterator[Tensor]:
        return (column.float() for column in _columns(self.codes, self.symmetric))

    def _levels(self, columns: list[Tensor], latent: Tensor) -> Tensor:
        """Levels ``[columns, C]``."""
        rows = to_rows(latent, self.channel_axis, self.per_channel)
        sums = [row_dots(to_rows(column, self.channel_axis, self.per_channel), rows) for column in columns]
        found = (self.inverse @ torch.stack(sums, 1).double()[..., None]).squeeze(-1).T.float()
        return torch.where(self.empty, torch.ones_like(found), found)

    def _project(self, latent: Tensor) -> Tensor:
        # In place, because fresh memory of a weight's size costs more than the arithmetic on it.
        total, *others = columns = list(self._columns())
        levels = self._levels(columns, latent.float()).to(latent.dtype).float()
        for column, level in zip(columns, levels, strict=True):
            column.mul_(spread(level, column, self.channel_axis))
        for column in others:
            total.add_(column)
        return total.to(latent.dtype)


class _Project(torch.autograd.Function):
    """The orthogonal projection on the weights that the codes allow, which is its own adjoint."""

    @staticmethod
    def forward(latent: Tensor, codes: Tensor, inverse: Tensor, empty: Tensor, rule: tuple[bool, bool, int]) -> Tensor:
        return FrozenCodes(codes, inverse, empty, *rule)._project(latent)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *tensors, ctx.rule = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Project.apply(grads[0], *ctx.saved_tensors, ctx.rule), None, None, None, None


def _columns(codes: Tensor, symmetric: bool) -> Iterator[Tensor]:
    """What the levels multiply, int8 of the weight's shape: every term, or its positive and then its negative codes."""
    yield from (codes.unbind() if symmetric else [*codes.clamp(min=0).unbind(), *codes.clamp(max=0).unbind()])


def pseudoinverse(gram: Tensor) -> Tensor:
    """Pseudoinverses of Gram matrices of integer vectors, float64 ``[C, k, k]``."""
    if gram.shape[-1] > 2:
        return torch.linalg.pinv(gram, hermitian=True)
    # Closed forms, exact where products of counts are, because a decomposition per channel costs more than all else.
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    rank_one = gram / trace.square().clamp_min(1)
    if gram.shape[-1] == 1:
        return rank_one
    (a, b), (c, d) = (line.unbind(-1) for line in gram.unbind(-2))
    determinant = (a * d - b * c)[:, None, None]
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
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
