"""Statistical weight scaling."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.sws import sws
from tern_lightning.quantizers.base import Quantizer, register
from tern_lightning.tensor import TernaryTensor


@register("sws")
class SWS(Quantizer):
    """Threshold ``beta * max|W|``, level the conditional mean, clipped straight-through gradient.

    Args:
        beta: Share of the largest magnitude, in [0, 1].
        per_channel: One threshold and level per output channel instead of one for the layer.
        ste_clip: Where given, the gradient reaches only latent weights with ``|W| < ste_clip``.

    Raises:
        ValueError: ``beta`` or ``ste_clip`` is out of range.
    """

    def __init__(self, beta: float = 0.05, per_channel: bool = False, ste_clip: float | None = 1.0) -> None:
        super().__init__(per_channel, ste_clip)
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be in [0, 1], got {beta}")
        self.beta = beta

    def ternary(self, weight: Tensor, channel_axis: int = 0) -> TernaryTensor:
        """Ternarise a float32 weight of any shape; see :func:`tern_lightning.functional.sws`."""
        return sws(weight, self.beta, self.per_channel, channel_axis)
