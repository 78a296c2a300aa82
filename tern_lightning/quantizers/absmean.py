"""The quantizer of BitNet b1.58."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.absmean import absmean
from tern_lightning.quantizers.base import Quantizer, check_range, register
from tern_lightning.ternary_tensor import TernaryTensor


@register("absmean")
class AbsMean(Quantizer):
    """Round to -1, 0, +1 in units of the mean magnitude, straight-through gradient.

    Args:
        eps: Smallest scale, > 0.
        per_channel: One threshold and level per output channel instead of one for the layer.
        ste_clip: Where given, the gradient reaches only latent weights with ``|W| < ste_clip``.

    Raises:
        ValueError: ``eps`` or ``ste_clip`` is out of range.
    """

    def __init__(self, eps: float = 1e-5, per_channel: bool = False, ste_clip: float | None = None) -> None:
        super().__init__(per_channel, ste_clip)
        check_range("eps", eps, 0, above=True)
        self.eps = eps

    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarize a float32 weight of any shape; see :func:`tern_lightning.functional.absmean`."""
        return absmean(weight, self.eps, self.per_channel, channel_axis, mask)
