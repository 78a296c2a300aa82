"""Sherry's 3:4 pattern."""

from __future__ import annotations

import torch
from torch import Tensor

from tern_lightning.functional.gradient import attach
from tern_lightning.functional.sherry import arenas, sherry
from tern_lightning.quantizers.base import Quantizer, check_range, register
from tern_lightning.ternary_tensor import TernaryTensor


@register("sherry")
class Sherry(Quantizer):
    """Three of every four weights not zero, straight-through gradient; see :func:`tern_lightning.functional.sherry`.

    Layers in training mode add a share of the float weight itself, which rises during ``warmup`` and has vanished at
    the end of the ternary phase; evaluation and checkpoints never have it. The share follows the run's
    progress; the published code counts to a fixed number of steps.

    Args:
        warmup: Part of the ternary phase over which the share rises to 1, in (0, 1).
        residual: Whether the share is added at all.
        per_channel: One level per output channel instead of one for the layer.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, warmup: float = 0.1, residual: bool = True, per_channel: bool = False) -> None:
        super().__init__(per_channel)
        check_range("warmup", warmup, 0, 0.99, above=True)
        self.warmup: float = warmup
        self.residual: bool = residual
        self.scheduled: bool = residual

    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarize a float32 weight; see :func:`tern_lightning.functional.sherry`."""
        return sherry(weight, self.per_channel, channel_axis, mask)

    def in_training(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor:
        """Return the ternary values with the share of the float weight."""
        if not self.residual:
            return super().in_training(weight, channel_axis, mask)
        share = arenas(self.progress.to(weight.device), self.warmup)
        fixed = weight.detach()
        values = torch.addcmul(self.ternary(fixed, channel_axis, mask).dequantize(), share, fixed)
        return attach(values, weight, 1 + share)
