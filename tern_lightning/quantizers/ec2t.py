"""Entropy-constrained trained ternarization."""

from __future__ import annotations

import torch
from torch import Tensor

from tern_lightning.functional.ec2t import ec2t
from tern_lightning.functional.levels import trained_levels
from tern_lightning.functional.shared import kept, row_max, row_mean, row_std
from tern_lightning.quantizers.base import Quantizer, check_range, register
from tern_lightning.ternary_tensor import TernaryTensor


@register("ec2t")
class EC2T(Quantizer):
    """Trained levels and codes that weigh distortion against bits; see :func:`tern_lightning.functional.ec2t`.

    The gradients are those of :func:`tern_lightning.functional.trained_levels`; the published code moves the negative
    level the wrong way. The strength of the entropy constraint is zero until
    :class:`tern_lightning.callbacks.EntropyConstraint` sets it: a callback and not an option, because it follows a
    schedule and weighs the layers by their sizes. Statistics and levels are the layer's, never a channel's.

    Args:
        initial_level: What the levels start from, as a share of the largest and the smallest weight, in (0, 1].
        floor: Smallest level in standard deviations of the weight, >= 0; it keeps a level from merging with zero.
        rate: Learning rate of the levels as a multiple of the weight's, > 0.
        normalize: Divide the gradient of a level by the square root of the number of weights, which only plain gradient
            descent notices; see :class:`tern_lightning.quantizers.ttq.TTQ`.
        group: How many neighboring output channels the entropy constraint makes zero together, >= 1. Kernels of CPUs
            take less time for 2 or 4; see :func:`tern_lightning.functional.entropy_groups`.
        two_levels: Train a level for either sign, as published. One level for both is less to store, and kernels read
            one list of weights a channel where they read two.

    Attributes:
        strength: Strength of the entropy constraint, a float32 scalar in [0, 1].
        size_factor: The layer's share of it, a float32 scalar in [0, 1].

    Raises:
        ValueError: An option is out of range.
    """

    strength: Tensor
    size_factor: Tensor

    def __init__(
        self,
        initial_level: float = 0.45,
        floor: float = 0.675,
        rate: float = 0.1,
        normalize: bool = True,
        group: int = 1,
        two_levels: bool = True,
    ) -> None:
        super().__init__()
        check_range("initial_level", initial_level, 0, 1, above=True)
        check_range("floor", floor, 0)
        check_range("rate", rate, 0, above=True)
        check_range("group", group, 1)
        self.initial_level: float = initial_level
        self.floor: float = floor
        self.rate: float = rate
        self.normalize: bool = normalize
        self.group: int = group
        self.symmetric: bool = not two_levels
        self.register_buffer("strength", torch.zeros(()))
        self.register_buffer("size_factor", torch.ones(()))

    def initial(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Levels ``positive`` and ``negative``, ``[1]``; a sign that does not occur takes the other's.

        Where there is one level it is ``positive``: the mean of the two.
        """
        tops = [row_max(signed, 0, False, mask) * self.initial_level for signed in (weight, -weight)]
        both = torch.maximum(*tops)
        both = torch.where(both > 0, both, torch.ones_like(both))
        positive, negative = (torch.where(top > 0, top, both) for top in tops)
        if self.symmetric:
            return {"positive": (positive + negative) / 2}
        return {"positive": positive, "negative": negative}

    def adopt(self, found: TernaryTensor) -> None:
        """Take the levels of a ternary weight."""
        self._adopt_levels(found)

    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarize a float32 weight of any shape; see :func:`tern_lightning.functional.ec2t`."""
        return self._assign(weight, self.fixed_scalars(weight, channel_axis, mask), channel_axis, mask)

    def forward(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor:
        """Return the ternary values with gradients for the weight and the levels."""
        levels = self.scalars(weight, channel_axis, mask)
        found = self._assign(weight.detach(), levels, channel_axis, mask)
        return trained_levels(weight, found, weight.numel() ** -0.5 if self.normalize else 1.0)

    def project(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> None:
        """Keep the levels above the floor."""
        mean = row_mean(weight, 0, False, mask)
        low = self.floor * row_std(kept(weight, mask), mean, 0, False, mask)
        for level in self.trained.values():
            level.copy_(torch.maximum(level, low))

    def _assign(
        self, weight: Tensor, levels: dict[str, Tensor], channel_axis: int, mask: Tensor | None
    ) -> TernaryTensor:
        constraint = (self.strength.to(weight.device), self.size_factor.to(weight.device))
        return ec2t(weight, *self.both(levels), *constraint, channel_axis, mask, self.group)

    def both(self, levels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The levels of the positive and of the negative weights, of those that are trained."""
        return levels["positive"], levels["positive" if self.symmetric else "negative"]
