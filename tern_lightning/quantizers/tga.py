"""Truncated Gaussian approximation."""

from __future__ import annotations

import torch
from torch import Tensor

from tern_lightning.functional.gradient import attach
from tern_lightning.functional.shared import row_max, row_mean, row_std
from tern_lightning.functional.tga import gaussian_sparsity, tga
from tern_lightning.quantizers.base import Quantizer, check_range, register
from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.near import check_share


@register("tga")
class TGA(Quantizer):
    """Trained threshold, level in closed form; see :func:`tern_lightning.functional.tga`.

    The threshold moves by stochastic gradient descent with Nesterov momentum 0.9, the weight's learning rate, and a
    gradient that is limited to ``gradient_limit``, as published. It is trained together with the weights in one pass,
    or with ``two_pass`` as in the published code, which runs every batch twice, first for thresholds and then for
    weights (see :func:`tern_lightning.callbacks._two_pass.first_pass`). Codes have no gradient, so that the threshold
    feels only the level's; without a bound it is reported to drift to zero. Hence ``low``, and, of
    our own, a penalty that draws it toward a target, ``penalty_strength * sigma^2 * (target_sparsity -
    (2 Phi(a) - 1))^2``, in which the weight's variance makes steps proportional to its deviation and whose gradient is
    not limited.

    Args:
        initial_threshold: What the threshold starts from, as a share of the largest magnitude, in [0, 1].
        low: Smallest threshold in standard deviations, >= 0.
        high: Largest one, > ``low``.
        two_levels: A level for each sign, for weights whose mean is not zero.
        detach_stats: No gradient for the weights through their mean and deviation.
        target_sparsity: Share of zeros, in [0, 1), of a Gaussian that the penalty aims at; None for no penalty.
        penalty_strength: Factor of the penalty, >= 0.
        gradient_limit: Largest magnitude of the threshold's gradient, > 0; None for no limit.
        rate: Learning rate of the threshold as a multiple of the weight's, > 0.
        two_pass: Train the threshold in a forward and backward of its own before that of the weights, at twice the
            cost; not with accumulated gradients or manual optimization.
        per_channel: One threshold and level per output channel instead of one for the layer.

    Raises:
        ValueError: An option is out of range.
    """

    optimizer = "sgd"
    momentum = 0.9

    def __init__(
        self,
        initial_threshold: float = 0.05,
        low: float = 0.05,
        high: float = 3.0,
        two_levels: bool = False,
        detach_stats: bool = False,
        target_sparsity: float | None = None,
        penalty_strength: float = 1.0,
        gradient_limit: float | None = 1e-3,
        rate: float = 1.0,
        two_pass: bool = False,
        per_channel: bool = False,
    ) -> None:
        super().__init__(per_channel)
        check_range("initial_threshold", initial_threshold, 0, 1)
        check_range("low", low, 0)
        if not low < high:
            raise ValueError(f"high must be above low, got low={low} and high={high}")
        check_range("penalty_strength", penalty_strength, 0)
        check_range("rate", rate, 0, above=True)
        if target_sparsity is not None:
            check_share("target_sparsity", target_sparsity, "[0, 1)")
        if gradient_limit is not None:
            check_range("gradient_limit", gradient_limit, 0, above=True)
        self.initial_threshold: float = initial_threshold
        self.low: float = low
        self.high: float = high
        self.two_levels: bool = two_levels
        self.detach_stats: bool = detach_stats
        self.target_sparsity: float | None = target_sparsity
        self.penalty_strength: float = penalty_strength
        self.gradient_limit: float | None = gradient_limit
        self.rate: float = rate
        self.symmetric: bool = not two_levels
        self.two_pass = two_pass

    def initial(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The ``threshold`` ``[C]``."""
        return {"threshold": self.initial_threshold * row_max(weight.abs(), channel_axis, self.per_channel, mask)}

    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarize a float32 weight of any shape; see :func:`tern_lightning.functional.tga`."""
        return self._assign(weight.detach(), self.fixed_scalars(weight, channel_axis, mask), channel_axis, mask)

    def forward(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor:
        """Return the ternary values: straight-through gradient for the weight, that of the level for the threshold."""
        found = self._assign(weight, self.scalars(weight, channel_axis, mask), channel_axis, mask)
        return attach(found.dequantize(), weight)

    def project(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> None:
        """Bring the threshold back between ``low`` and ``high`` standard deviations."""
        std = self._std(weight, channel_axis, mask)
        threshold = self.trained["threshold"]
        threshold.copy_(torch.minimum(torch.maximum(threshold, self.low * std), self.high * std))

    def penalty(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor | None:
        """The squared distance to ``target_sparsity`` times the variance."""
        if self.target_sparsity is None:
            return None
        std = self._std(weight, channel_axis, mask)
        distance = self.target_sparsity - gaussian_sparsity(self.trained["threshold"] / std)
        return self.penalty_strength * (std * distance).square().sum()

    def _std(self, weight: Tensor, channel_axis: int, mask: Tensor | None) -> Tensor:
        mean = row_mean(weight, channel_axis, self.per_channel, mask)
        return row_std(weight, mean, channel_axis, self.per_channel, mask)

    def _assign(
        self, weight: Tensor, scalars: dict[str, Tensor], channel_axis: int, mask: Tensor | None
    ) -> TernaryTensor:
        bounds = (self.low, self.high, self.two_levels, self.detach_stats)
        return tga(weight, scalars["threshold"], *bounds, self.per_channel, channel_axis, mask)
