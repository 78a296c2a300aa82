"""Trained Ternary Quantization."""

from __future__ import annotations

import torch
from torch import Tensor

from tern_lightning.functional.levels import trained_levels, ttq
from tern_lightning.functional.shared import conditional_mean, row_mean
from tern_lightning.quantizers.base import Quantizer, check_range, register
from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.near import check_share


@register("ttq")
class TTQ(Quantizer):
    """Threshold ``threshold * max|W|`` or of a fixed share of zeros, two trained levels; see
    :func:`tern_lightning.functional.ttq` and, for the gradients, :func:`tern_lightning.functional.trained_levels`.

    The levels start at the means of the weights that they replace, which suits a trained network; the paper's code,
    which trains from scratch, starts at 1. They stay above ``floor`` times the mean magnitude: without a bound levels
    are known to turn negative, at a great loss of accuracy.

    Args:
        threshold: Share of the largest magnitude, in [0, 1].
        sparsity: Share of zeros, in [0, 1), in place of the threshold.
        initial_level: What both levels start from, > 0; None for the means.
        floor: Smallest level as a multiple of ``mean|W|``, > 0.
        rate: Learning rate of the levels as a multiple of the weight's, > 0.
        normalize: Divide the gradient of a level by the square root of the number of weights that share it, as Learned
            Step Size Quantization (2020), section 2.2, does for its step. The published gradient is the sum over these
            weights; adaptive optimizers see no difference, but under plain gradient descent it moves levels that are
            as small as a trained network's weights so fast that training fails.
        per_channel: One threshold and two levels per output channel instead of for the layer.

    Raises:
        ValueError: An option is out of range.
    """  # noqa: D205

    symmetric = False

    def __init__(
        self,
        threshold: float = 0.05,
        sparsity: float | None = None,
        initial_level: float | None = None,
        floor: float = 0.05,
        rate: float = 1.0,
        normalize: bool = True,
        per_channel: bool = False,
    ) -> None:
        super().__init__(per_channel)
        check_range("threshold", threshold, 0, 1)
        check_range("floor", floor, 0, above=True)
        check_range("rate", rate, 0, above=True)
        if sparsity is not None:
            check_share("sparsity", sparsity, "[0, 1)")
        if initial_level is not None:
            check_range("initial_level", initial_level, 0, above=True)
        self.threshold: float = threshold
        self.sparsity: float | None = sparsity
        self.initial_level: float | None = initial_level
        self.floor: float = floor
        self.rate: float = rate
        self.normalize: bool = normalize

    def initial(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Levels ``positive`` and ``negative``, ``[C]``: the means of the weights, or ``initial_level``."""
        channels = weight.shape[channel_axis] if self.per_channel else 1
        one = weight.new_ones(channels)
        if self.initial_level is not None:
            return {"positive": one * self.initial_level, "negative": one * self.initial_level}
        codes = self._assign(weight, one, one, channel_axis, mask).codes[0]
        rows = (channel_axis, self.per_channel)
        both = conditional_mean(weight, codes != 0, *rows)
        return {
            name: torch.where(_occurs(here, *rows), conditional_mean(weight, here, *rows), both)
            for name, here in (("positive", codes > 0), ("negative", codes < 0))
        }

    def adopt(self, found: TernaryTensor) -> None:
        """Take the levels of a ternary weight."""
        self._adopt_levels(found)

    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarize a float32 weight of any shape; see :func:`tern_lightning.functional.ttq`."""
        levels = self.fixed_scalars(weight, channel_axis, mask)
        return self._assign(weight, levels["positive"], levels["negative"], channel_axis, mask)

    def forward(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor:
        """Return the ternary values with gradients for the weight and both levels."""
        levels = self.scalars(weight, channel_axis, mask)
        found = self._assign(weight.detach(), levels["positive"], levels["negative"], channel_axis, mask)
        share = (found.positive.numel() / weight.numel()) ** 0.5
        return trained_levels(weight, found, share if self.normalize else 1.0)

    def project(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> None:
        """Keep the levels above the floor."""
        floor = self.floor * row_mean(weight.abs(), channel_axis, self.per_channel, mask)
        for level in self.trained.values():
            level.copy_(torch.maximum(level, floor))

    def _assign(
        self, weight: Tensor, positive: Tensor, negative: Tensor, channel_axis: int, mask: Tensor | None
    ) -> TernaryTensor:
        return ttq(weight, positive, negative, self.threshold, self.sparsity, self.per_channel, channel_axis, mask)


def _occurs(chosen: Tensor, channel_axis: int, per_channel: bool) -> Tensor:
    return row_mean(chosen.float(), channel_axis, per_channel) > 0
