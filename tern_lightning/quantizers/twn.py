"""Ternary Weight Networks."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.gradient import straight_through
from tern_lightning.functional.residual import residual_terms
from tern_lightning.functional.twn import twn, twn_values
from tern_lightning.quantizers.base import Quantizer, check_range, register
from tern_lightning.ternary_tensor import TernaryTensor


@register("twn")
class TWN(Quantizer):
    """Threshold ``factor * mean|W|``, level the conditional mean, straight-through gradient.

    Args:
        factor: Multiple of the mean magnitude, >= 0.
        per_channel: One threshold and level per output channel instead of one for the layer.
        ste_clip: Where given, the gradient reaches only latent weights with ``|W| < ste_clip``.
        terms: Number of terms, 1 to 4; each after the first ternarizes what those before leave over.

    Raises:
        ValueError: ``factor``, ``ste_clip`` or ``terms`` is out of range.
    """

    def __init__(
        self, factor: float = 0.7, per_channel: bool = False, ste_clip: float | None = None, terms: int = 1
    ) -> None:
        super().__init__(per_channel, ste_clip)
        check_range("factor", factor, 0)
        check_range("terms", terms, 1, 4)
        self.factor: float = factor
        self.terms: int = terms

    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarize a float32 weight of any shape; see :func:`tern_lightning.functional.twn`."""
        if self.terms == 1:
            return twn(weight, self.factor, self.per_channel, channel_axis, mask)
        return residual_terms(
            weight, self.terms, lambda rest: twn(rest, self.factor, self.per_channel, channel_axis, mask)
        )

    def forward(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor:
        """Return the values of :meth:`ternary`, with a straight-through gradient."""
        if self.terms > 1:
            return super().forward(weight, channel_axis, mask)
        values = twn_values(weight, self.factor, self.per_channel, channel_axis, mask, self.spare)
        return straight_through(weight, values, self.ste_clip)
