"""Ternary Weight Networks."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.twn import twn
from tern_lightning.quantizers.base import Quantizer, register
from tern_lightning.tensor import TernaryTensor


@register("twn")
class TWN(Quantizer):
    """Threshold ``factor * mean|W|``, level the conditional mean, straight-through gradient.

    Args:
        factor: Multiple of the mean magnitude, >= 0.
        per_channel: One threshold and level per output channel instead of one for the layer.
        ste_clip: Where given, the gradient reaches only latent weights with ``|W| < ste_clip``.

    Raises:
        ValueError: ``factor`` or ``ste_clip`` is out of range.
    """

    def __init__(self, factor: float = 0.7, per_channel: bool = False, ste_clip: float | None = None) -> None:
        super().__init__(per_channel, ste_clip)
        if not factor >= 0:
            raise ValueError(f"factor must be >= 0, got {factor}")
        self.factor = factor

    def ternary(self, weight: Tensor, channel_axis: int = 0) -> TernaryTensor:
        """Ternarise a float32 weight of any shape; see :func:`tern_lightning.functional.twn`."""
        return twn(weight, self.factor, self.per_channel, channel_axis)
