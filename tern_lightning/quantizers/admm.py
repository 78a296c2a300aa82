"""The ternary set of ADMM as a quantiser."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.projection import ternary_projection
from tern_lightning.quantizers.base import Quantizer, check_range, register
from tern_lightning.tensor import TernaryTensor


@register("admm")
class ADMM(Quantizer):
    """Least-squares ternary weights by alternation, straight-through gradient.

    It is the projection on which the alternating direction method of multipliers trains towards ternary weights; see
    :func:`tern_lightning.functional.ternary_projection`. As a quantiser it is the closest ternary form of the weight.

    Args:
        iterations: Rounds of the alternation, >= 1.
        per_channel: One level per output channel instead of one for the layer.
        ste_clip: Where given, the gradient reaches only latent weights with ``|W| < ste_clip``.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, iterations: int = 5, per_channel: bool = False, ste_clip: float | None = None) -> None:
        super().__init__(per_channel, ste_clip)
        check_range("iterations", iterations, 1)
        self.iterations = iterations

    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarise a float32 weight; see :func:`tern_lightning.functional.ternary_projection`."""
        return ternary_projection(weight, None, self.iterations, self.per_channel, channel_axis, mask)
