"""Tequila's dead-zone bias."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.absmean import absmean
from tern_lightning.functional.tequila import dead_zone_bias
from tern_lightning.quantizers.base import Quantizer, check_range, register
from tern_lightning.ternary_tensor import TernaryTensor


@register("tequila")
class Tequila(Quantizer):
    """Rounding in units of the mean magnitude, with a bias from the weights that become zero.

    Values are those of :func:`tern_lightning.functional.absmean`, the bias is
    :func:`tern_lightning.functional.dead_zone_bias`. It is added to the layer's own bias, which the layer must have:
    checkpoints and exported networks hold the sum, the freeze makes it part of the bias, and the callback's state keeps
    the layer's own one. Before batch normalization a bias has no effect and no gradient, and so has the method.

    The published scale is one for every 128 weights; here it is one for the layer or one per output channel.

    Args:
        strength: Factor of the bias, >= 0.
        eps: Smallest scale, > 0.
        per_channel: One scale per output channel instead of one for the layer.

    Raises:
        ValueError: An option is out of range.
    """

    uses_bias = True

    def __init__(self, strength: float = 1e-3, eps: float = 1e-5, per_channel: bool = False) -> None:
        super().__init__(per_channel)
        check_range("strength", strength, 0)
        check_range("eps", eps, 0, above=True)
        self.strength: float = strength
        self.eps: float = eps

    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarize a float32 weight of any shape; see :func:`tern_lightning.functional.absmean`."""
        return absmean(weight, self.eps, self.per_channel, channel_axis, mask)

    def bias_shift(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor:
        """The dead zone's bias, ``[channels]``, differentiable in the weight."""
        return dead_zone_bias(weight, self.ternary(weight.detach(), channel_axis, mask), self.strength, mask)
