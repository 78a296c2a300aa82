"""ParetoQ's stretched elastic quantizer."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.seq import seq, seq_gradient
from tern_lightning.functional.shared import row_max
from tern_lightning.quantizers.base import Quantizer, check_range, register
from tern_lightning.ternary_tensor import TernaryTensor


@register("seq")
class SEQ(Quantizer):
    """Thirds of a trained range; see :func:`tern_lightning.functional.seq`.

    The range of an output channel starts at its largest magnitude, as published for fine-tuning a trained network.

    Args:
        eps: Smallest range, > 0.
        rate: Learning rate of the ranges as a multiple of the weight's, > 0.
        per_channel: One range per output channel, as published, instead of one for the layer.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, eps: float = 1e-5, rate: float = 1.0, per_channel: bool = True) -> None:
        super().__init__(per_channel)
        check_range("eps", eps, 0, above=True)
        check_range("rate", rate, 0, above=True)
        self.eps: float = eps
        self.rate: float = rate

    def initial(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The ``scale`` ``[C]``, the largest magnitude."""
        return {"scale": row_max(weight.abs(), channel_axis, self.per_channel, mask).clamp_min(self.eps)}

    def adopt(self, found: TernaryTensor) -> None:
        """Take the range whose two thirds are the level."""
        scale = self.trained["scale"]
        scale.copy_(1.5 * found.positive.expand(1, scale.numel())[0])

    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarize a float32 weight of any shape; see :func:`tern_lightning.functional.seq`."""
        return seq(weight, self.fixed_scalars(weight, channel_axis, mask)["scale"], channel_axis, mask)

    def forward(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor:
        """Return the ternary values with gradients for the weight and the range."""
        scale = self.scalars(weight, channel_axis, mask)["scale"]
        return seq_gradient(weight, scale, seq(weight.detach(), scale.detach(), channel_axis, mask), mask)

    def project(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> None:
        """Keep the range positive."""
        self.trained["scale"].clamp_(min=self.eps)
