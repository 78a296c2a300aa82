"""Sparsity, entropy and flips of codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from tern_lightning.functional import statistics
from tern_lightning.ternary_tensor import TernaryTensor


class _Ratio(Metric):
    """A share of a whole, summed over updates and processes."""

    is_differentiable: bool | None = False
    full_state_update: bool | None = False
    part: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("part", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, part: Tensor | float, total: int) -> None:
        self.part += part
        self.total += total

    def compute(self) -> Tensor:
        """Return the share, a float64 scalar."""
        return statistics._ratio_compute(self.part, self.total)


class Sparsity(_Ratio):
    """Fraction of zero weights over all layers, in [0, 1].

    Example:
        >>> import torch
        >>> from tern_lightning.functional import twn
        >>> metric = Sparsity()
        >>> metric.update(twn(torch.tensor([[1.0, -3.0, 0.1, 0.2]])))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    def update(self, ternary: TernaryTensor) -> None:
        """Add one layer."""
        self._add(*statistics._sparsity_update(ternary))


class CodeEntropy(_Ratio):
    """Bits per weight of an ideal code over all layers, each layer with a code of its own, >= 0."""

    def update(self, ternary: TernaryTensor) -> None:
        """Add one layer."""
        self._add(*statistics._code_entropy_update(ternary))


class FlipRatio(_Ratio):
    """Fraction of codes that changed over all layers, in [0, 1]."""

    def update(self, codes: Tensor, previous: Tensor) -> None:
        """Add one layer: its int8 codes now and before.

        Raises:
            ValueError: The shapes differ.
        """
        self._add(*statistics._flip_ratio_update(codes, previous))
