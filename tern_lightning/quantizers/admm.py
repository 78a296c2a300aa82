"""The ternary set of ADMM as a quantizer."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.projection import ternary_projection
from tern_lightning.quantizers.base import Quantizer, register
from tern_lightning.ternary_tensor import TernaryTensor


@register("admm")
class ADMM(Quantizer):
    """The closest ternary weight, straight-through gradient.

    It is the projection on which the alternating direction method of multipliers trains toward ternary weights; see
    :func:`tern_lightning.functional.ternary_projection`.

    Args:
        per_channel: One level per output channel instead of one for the layer.
        ste_clip: Where given, the gradient reaches only latent weights with ``|W| < ste_clip``.

    Raises:
        ValueError: An option is out of range.
    """

    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarize a float32 weight; see :func:`tern_lightning.functional.ternary_projection`."""
        return ternary_projection(weight, self.per_channel, channel_axis, mask)
