"""Multi-level ternary weights."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.gradient import straight_through
from tern_lightning.functional.multilevel import multilevel, multilevel_values
from tern_lightning.quantizers.base import Quantizer, check_range, register
from tern_lightning.ternary_tensor import TernaryTensor


@register("multilevel")
class MultiLevel(Quantizer):
    """A sum of ternary terms: residuals, levels by least squares, nearest codes; straight-through gradient.

    A reconstruction: of the paper on multi-level ternary quantization with pruning (Manavi Mofrad, Ansarmohammadi,
    Salehi) only the abstract was at hand, which has neither the thresholds nor how levels are found. Both are those of
    the papers that :func:`tern_lightning.functional.multilevel.multilevel` names.

    Args:
        terms: Number of terms, 1 to 4.
        factor: Threshold of a residual as a multiple of its mean magnitude, >= 0.
        iterations: Rounds of fitting the levels and coding every weight anew, >= 0.
        per_channel: Levels per output channel instead of for the layer.
        ste_clip: Where given, the gradient reaches only latent weights with ``|W| < ste_clip``.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        terms: int = 2,
        factor: float = 0.7,
        iterations: int = 1,
        per_channel: bool = False,
        ste_clip: float | None = None,
    ) -> None:
        super().__init__(per_channel, ste_clip)
        check_range("terms", terms, 1, 4)
        check_range("factor", factor, 0)
        check_range("iterations", iterations, 0)
        self.terms: int = terms
        self.factor: float = factor
        self.iterations: int = iterations

    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarize a float32 weight; see :func:`tern_lightning.functional.multilevel.multilevel`."""
        return multilevel(weight, self.terms, self.factor, self.iterations, self.per_channel, channel_axis, mask)

    def forward(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor:
        """Return the values of :meth:`ternary`, with a straight-through gradient."""
        own = (self.terms, self.factor, self.iterations, self.per_channel, channel_axis, mask, self.spare)
        return straight_through(weight, multilevel_values(weight, *own), self.ste_clip)
