"""Weights as sums of ternary terms: nested terms, terms of residuals, and nested terms as one level index."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tern_lightning.functional.shared import row_sum, spread
from tern_lightning.ternary_tensor import TernaryTensor


def nested_terms(weight: Tensor, terms: Sequence[TernaryTensor], per_channel: bool = False) -> TernaryTensor:
    r"""Join terms that each ternarize ``weight`` itself and scale their sum S to it.

    .. math:: c = \langle W, S \rangle / \langle S, S \rangle

    minimizes :math:`\|W - c S\|`; all levels are multiplied by it. Without it the sum is about as many times too large
    as there are terms.

    Args:
        weight: Float32 weight of any shape.
        terms: One-term weights of its shape, all with symmetric levels.
        per_channel: One factor per output channel instead of one for the layer.
    """
    axis = terms[0].channel_axis
    codes = torch.cat([term.codes for term in terms])
    levels = torch.cat([term.positive for term in terms])
    total = TernaryTensor(codes, levels, levels, axis).dequantize()
    square = row_sum(total.square(), axis, per_channel)
    factor = row_sum(weight * total, axis, per_channel) / square.clamp_min(torch.finfo(torch.float32).tiny)
    levels = levels * torch.where(square > 0, factor, torch.ones_like(factor))
    return TernaryTensor(codes, levels, levels, axis)


def residual_terms(weight: Tensor, count: int, ternarize: Callable[[Tensor], TernaryTensor]) -> TernaryTensor:
    r"""Ternarize the weight, then what is left over, ``count`` times.

    .. math:: r_0 = W, \quad r_t = r_{t-1} - \hat r_{t-1}

    With conditional means as levels every term that is not empty lowers the squared error
    :math:`\|W - \sum_t \hat r_t\|^2`, by its level squared for every weight that it takes (Ternary Weight Networks,
    2016, equations 3 and 4, applied to the residual).

    Args:
        weight: Float32 weight of any shape.
        count: Number of terms, >= 1.
        ternarize: Gives the one-term form of a weight.
    """
    rest, found = weight, []
    for _ in range(count):
        found.append(ternarize(rest))
        rest = rest - found[-1].dequantize()
    codes, positive, negative = (
        torch.cat([getattr(term, name) for term in found]) for name in ("codes", "positive", "negative")
    )
    return TernaryTensor(codes, positive, negative, found[0].channel_axis)


@dataclass(frozen=True)
class LevelIndex:
    """Nested terms as one small integer per weight and a table of values.

    Attributes:
        index: int8 of the weight's shape, in [-terms, terms]: how many terms are not zero, with their sign.
        table: float32 ``[2 * terms + 1, C]``; the value of index i is row ``i + terms``.
        channel_axis: Axis of the output channels in the weight.
    """

    index: Tensor
    table: Tensor
    channel_axis: int = 0

    @property
    def bits(self) -> int:
        """Bits per weight of a code of fixed length: 2 for one term, 3 for two or three, 4 for four to seven."""
        return (self.table.shape[0] - 1).bit_length()

    def nbytes(self) -> int:
        """Stored bytes: packed indices and the non-zero rows of the table in float32."""
        return (self.index.numel() * self.bits + 7) // 8 + 4 * (self.table.numel() - self.table.shape[1])

    def dequantize(self) -> Tensor:
        """Return the weight, float32: equal to the sum of the terms."""
        terms = self.table.shape[0] // 2
        row = (self.index + terms).long()
        if self.table.shape[1] == 1:
            return self.table[:, 0][row]
        wide = [spread(values, self.index, self.channel_axis) for values in self.table]
        return torch.stack([value.expand(self.index.shape) for value in wide]).gather(0, row[None])[0]


def level_index(weight: TernaryTensor) -> LevelIndex:
    """Merge nested terms into one index per weight.

    The terms of the parallel residual expansion are nested: where one is not zero, those before it are not and have
    its sign. So the sum of the codes says which terms are on, and ``2 * terms + 1`` values need 3 bits for two terms
    and 4 for four, instead of 2 bits for each term.

    Raises:
        ValueError: The terms are not nested.

    Example:
        >>> import torch
        >>> from tern_lightning.functional import sws
        >>> merged = level_index(sws(torch.tensor([[1.0, -4.0, 0.1, 0.3]]), terms=2, beta=0.05))
        >>> merged.index.tolist(), merged.bits
        ([[2, -2, 0, 1]], 3)
    """
    codes = weight.codes
    for first, second in itertools.pairwise(codes):
        if bool(((second != 0) & (second != first)).any()):
            raise ValueError("terms must be nested, each zero or equal to the one before, got others")
    zero = torch.zeros_like(weight.positive[:1])
    # Added up in the order of dequantize(), so that the values are equal to the last bit.
    positive = torch.stack([weight.positive[:count].sum(0) for count in range(1, weight.terms + 1)])
    negative = torch.stack([-weight.negative[:count].sum(0) for count in range(weight.terms, 0, -1)])
    index = codes.sum(0, dtype=torch.int8)
    return LevelIndex(index, torch.cat([negative, zero, positive]), weight.channel_axis)
