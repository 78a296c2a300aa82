"""Zeros that come in groups or channels, and how the signs divide."""

from __future__ import annotations

from typing import Any

from tern_lightning.functional import structure
from tern_lightning.functional.patterns import Group
from tern_lightning.functional.structure import Side
from tern_lightning.metrics.statistics import _Ratio
from tern_lightning.ternary_tensor import TernaryTensor


class GroupSparsity(_Ratio):
    """Fraction of groups of weights that are zero over all layers, in [0, 1].

    Args:
        group: Output and input channels of a group; groups at the ends may be smaller.
        kernel: Whether a group spans the whole kernel of a convolution or one position of it.
        kwargs: Options of every metric.
    """

    def __init__(self, group: Group, kernel: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.kernel: bool = kernel

    def update(self, ternary: TernaryTensor) -> None:
        """Add one layer."""
        self._add(*structure._group_sparsity_update(ternary, self.group, self.kernel))


class ChannelSparsity(_Ratio):
    """Fraction of channels without a weight over all layers, in [0, 1].

    Args:
        side: ``output`` or ``input`` channels.
        kwargs: Options of every metric.

    Raises:
        ValueError: ``side`` is neither.
    """

    def __init__(self, side: Side = "output", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        structure.check_side(side)
        self.side = side

    def update(self, ternary: TernaryTensor) -> None:
        """Add one layer."""
        self._add(*structure._channel_sparsity_update(ternary, self.side))


class SignBalance(_Ratio):
    """Share of positive weights among those that are not zero over all layers, in [0, 1]; 0.5 is balanced."""

    def update(self, ternary: TernaryTensor) -> None:
        """Add one layer."""
        positive, total = structure._sign_balance_update(ternary)
        self._add(positive, int(total))
