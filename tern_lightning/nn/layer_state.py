"""What a ternary layer is doing: its method, its phase, its frozen codes and its mask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from tern_lightning.functional.frozen import FrozenCodes
from tern_lightning.functional.gradient import masked, straight_through
from tern_lightning.functional.multilevel import limit_codes, limit_terms
from tern_lightning.nn.tracing import unseen
from tern_lightning.nn.weight_mask import WeightMask
from tern_lightning.quantizers import Quantizer
from tern_lightning.ternary_tensor import TernaryTensor

Phase = Literal["float", "ternary", "frozen"]
PHASES: tuple[Phase, ...] = ("float", "ternary", "frozen")


@dataclass
class LayerState:
    """What a ternary layer is doing; tied layers and averaged copies of a layer share one.

    Attributes:
        quantizer: The method that makes the ternary form.
        channel_axis: Axis of the output channels in the weight.
        phase: ``float`` computes with the latent weight, ``ternary`` with its ternary form, ``frozen`` with
            fixed codes.
        codes: The fixed int8 codes in phase ``frozen``: of the weight's shape, or ``[terms, *weight.shape]`` where the
            method has several terms.
        mask: Which weights are pruned, set by :func:`swap`. They are zero in every phase, and thresholds and levels are
            those of the others.
        running: Whether a run trains the layer, so that whatever is loaded must become ternary.
    """

    quantizer: Quantizer
    channel_axis: int = 0
    phase: Phase = "float"
    codes: Tensor | None = None
    mask: WeightMask | None = None
    running: bool = False
    _prepared: tuple[tuple[Tensor | None, ...], FrozenCodes] | None = field(default=None, init=False, repr=False)

    def ternary(self, latent: Tensor) -> TernaryTensor:
        """Ternarize a latent weight as forward does. Levels have its precision; in ``frozen`` they carry gradients."""
        weight = latent.float()
        keep = self._keep(weight)
        if self.codes is None:
            found = self.quantizer.ternary(weight, self.channel_axis, **self._mask_option(keep))
            if keep is not None:
                found = TernaryTensor(found.codes * keep, found.positive, found.negative, found.channel_axis)
                limit = self._limit(weight)
                if limit is not None:
                    found = limit_terms(weight, found, limit, self.quantizer.symmetric)
        else:
            found = self.frozen(weight).levels(weight)
        if latent.dtype == torch.float32:
            return found
        positive, negative = (level.to(latent.dtype).float() for level in (found.positive, found.negative))
        return TernaryTensor(found.codes, positive, negative, found.channel_axis)

    def values(self, latent: Tensor, training: bool = False) -> Tensor:
        """The weight that forward uses, with the gradient rule of the method; pruned weights have no gradient.

        Args:
            latent: The latent weight, float, of the layer's shape.
            training: Whether the layer is in training mode, where some methods soften the ternary weight.
        """
        if self.phase == "frozen":
            return self.frozen(latent).values(latent)
        keep = self._keep(latent)
        values = latent
        if self.phase == "ternary" and self._limit(latent) is not None:
            cut = self.ternary(latent.detach()).dequantize()
            values = straight_through(latent.float(), cut, self.quantizer.ste_clip).to(latent.dtype)
        elif self.phase == "ternary":
            method = self.quantizer.in_training if training else self.quantizer
            values = method(latent.float(), self.channel_axis, **self._mask_option(keep)).to(latent.dtype)
        return values if keep is None else masked(values, keep, self.quantizer.spare)

    def bias(self, latent: Tensor, own: Tensor | None) -> Tensor | None:
        """The bias that forward uses: the layer's ``own``, with what the method adds to it in the ternary phase."""
        if own is None or self.phase != "ternary" or not self.quantizer.uses_bias:
            return own
        keep = self._keep(latent)
        return own + self.quantizer.bias_shift(latent.float(), self.channel_axis, keep).to(own.dtype)

    def frozen(self, weight: Tensor) -> FrozenCodes:
        """The fixed codes without the pruned ones; what they cost to prepare is paid when they or the mask change."""
        assert self.codes is not None
        keep, limit = self._keep(weight), self._limit(weight)
        made_of = (self.codes, keep, limit)
        if self._prepared is None or any(new is not old for new, old in zip(made_of, self._prepared[0], strict=True)):
            self._prepared = (made_of, unseen(lambda: self._prepare(*made_of, weight)))
        return self._prepared[1].to(weight.device)

    def _prepare(self, codes: Tensor, keep: Tensor | None, limit: Tensor | None, weight: Tensor) -> FrozenCodes:
        codes, method = codes.to(weight.device), self.quantizer
        if keep is not None:
            codes = codes * keep if limit is None else limit_codes(codes, limit)
        terms = codes[None] if codes.ndim == weight.ndim else codes
        return FrozenCodes.of(terms, method.symmetric, method.per_channel, self.channel_axis)

    def _keep(self, weight: Tensor) -> Tensor | None:
        return None if self.mask is None else self.mask.on(weight.device)

    def _limit(self, weight: Tensor) -> Tensor | None:
        """How many terms every weight may have, where the method has several and pruning limits them."""
        several = getattr(self.quantizer, "terms", 1) > 1
        return self.mask.limit if several and self._keep(weight) is not None and self.mask is not None else None

    def _mask_option(self, keep: Tensor | None) -> dict[str, Tensor]:
        """A method of somebody's own that knows no masks sees the pruned weights as zeros."""
        if keep is None or not self.quantizer.knows_masks:
            return {}
        return {"mask": keep}
