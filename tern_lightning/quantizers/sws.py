"""Statistical weight scaling and residual expansion layers."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from tern_lightning.functional.sws import sws
from tern_lightning.quantizers.base import Quantizer, check_range, register
from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.near import check_share


@register("sws")
class SWS(Quantizer):
    """Threshold ``beta * max|W|``, level the conditional mean, clipped straight-through gradient; optionally expanded.

    With several terms the latent weight receives the gradient of their sum once. The published code shares one latent
    weight between branches that each pass it on, ``terms`` times as much in all, for a sum that is about ``terms``
    times too large; as the sum is scaled to the weight here, once is the same step relative to the weight. The
    published code also adds the layer's bias once per branch; here it is added once.

    Args:
        beta: Share of the largest magnitude, in [0, 1].
        per_channel: One threshold and level per output channel instead of one for the layer.
        ste_clip: Where given, the gradient reaches only latent weights with ``|W| < ste_clip``.
        terms: Number of terms, 1 to 4 (the paper has 1, 2 and 4).
        mode: ``"parallel"``, as published: term t ternarizes the weight with threshold ``t * beta * max|W|``;
            ``"sequential"``: each ternarizes what those before leave over. See :func:`tern_lightning.functional.sws`.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        beta: float = 0.05,
        per_channel: bool = False,
        ste_clip: float | None = 1.0,
        terms: int = 1,
        mode: Literal["parallel", "sequential"] = "parallel",
    ) -> None:
        super().__init__(per_channel, ste_clip)
        check_share("beta", beta)
        check_range("terms", terms, 1, 4)
        self.beta: float = beta
        self.terms: int = terms
        self.mode = mode

    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarize a float32 weight of any shape; see :func:`tern_lightning.functional.sws`."""
        return sws(weight, self.beta, self.per_channel, channel_axis, mask, self.terms, self.mode)
