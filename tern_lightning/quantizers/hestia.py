"""Hestia's annealed softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from tern_lightning.functional.absmean import absmean
from tern_lightning.functional.gradient import attach
from tern_lightning.functional.hestia import GAUSSIAN_TEMPERATURE, hestia_schedule, softened
from tern_lightning.functional.shared import mean_magnitude
from tern_lightning.quantizers.base import Quantizer, check_range, register
from tern_lightning.ternary_tensor import TernaryTensor

COLDEST = 1e-4
"""Temperature below which the softmax is taken for rounding, which has a straight-through gradient."""


@register("hestia")
class Hestia(Quantizer):
    """Rounding in units of the mean magnitude, reached through a softmax whose temperature falls to zero.

    Layers in training mode use :func:`tern_lightning.functional.soft_ternary`, blended in from the float weight until
    ``blend`` and annealed until ``end`` (both parts of the ternary phase), then the hard values with a straight-through
    gradient; evaluation and checkpoints always have the hard values, those of
    :func:`tern_lightning.functional.absmean`. The published method also lowers the temperature of layers to which the
    loss is sensitive: :func:`tern_lightning.hessian.hestia_rules` makes the rules.

    Args:
        temperature: First temperature, > 0.
        blend: Share of the phase after which blending begins, in (0, 1).
        end: Share of the phase after which the values are hard, in (``blend``, 1].
        eps: Smallest scale, > 0.
        per_channel: One scale per output channel instead of one for the layer.

    Raises:
        ValueError: An option is out of range.
    """

    scheduled = True

    def __init__(
        self,
        temperature: float = GAUSSIAN_TEMPERATURE,
        blend: float = 0.2,
        end: float = 0.9,
        eps: float = 1e-5,
        per_channel: bool = False,
    ) -> None:
        super().__init__(per_channel)
        check_range("temperature", temperature, 0, above=True)
        check_range("blend", blend, 0, 0.99, above=True)
        check_range("end", end, blend, 1, above=True)
        check_range("eps", eps, 0, above=True)
        self.temperature: float = temperature
        self.blend: float = blend
        self.end: float = end
        self.eps: float = eps

    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarize a float32 weight of any shape; see :func:`tern_lightning.functional.absmean`."""
        return absmean(weight, self.eps, self.per_channel, channel_axis, mask)

    def in_training(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor:
        """Return the softened values, and the hard ones when the temperature has fallen to zero."""
        options = (channel_axis, mask)
        share, temperature = hestia_schedule(self.progress.to(weight.device), self.temperature, self.blend, self.end)
        if weight.device.type == "cpu" and not torch.compiler.is_compiling():
            # A look at a tensor elsewhere would wait for the device; here it saves one of the two.
            warm = bool(temperature > COLDEST)
            return self._soft(weight, share, temperature, *options) if warm else self(weight, *options)
        soft = self._soft(weight, share, temperature.clamp_min(COLDEST), *options)
        return torch.where(temperature > COLDEST, soft, self(weight, *options))

    def _soft(
        self, weight: Tensor, share: Tensor, temperature: Tensor, channel_axis: int, mask: Tensor | None
    ) -> Tensor:
        scale = mean_magnitude(weight.detach(), channel_axis, self.per_channel, mask).clamp_min(self.eps)
        values, slope = softened(weight.detach(), scale, temperature, channel_axis, share)
        return attach(values, weight, slope)
