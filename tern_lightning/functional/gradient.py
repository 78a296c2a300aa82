"""Gradient rules of quantized weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tern_lightning.products import as_factor


class _Attach(torch.autograd.Function):
    """``values`` in forward; in backward its gradient for ``values`` and ``slope`` times it for ``latent``."""

    @staticmethod
    def forward(values: Tensor, latent: Tensor, slope: Tensor | float | None) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, latent, slope = inputs
        ctx.shape, ctx.slope = latent.shape, None if isinstance(slope, Tensor) else slope
        ctx.save_for_backward(slope if isinstance(slope, Tensor) else None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        (slope,) = ctx.saved_tensors
        own = None
        if ctx.needs_input_grad[1]:
            factor = ctx.slope if slope is None else slope.to(grad.dtype)
            own = (grad if factor is None else grad * factor).sum_to_size(ctx.shape)
        return grad if ctx.needs_input_grad[0] else None, own, None


def attach(values: Tensor, latent: Tensor, slope: Tensor | float | None = None) -> Tensor:
    """Return ``values`` exactly, with ``slope`` times the gradient for ``latent`` besides that of ``values`` itself.

    Unlike in ``latent + (values - latent).detach()`` no rounding touches the values.

    Args:
        values: Result; what it was computed from receives its gradient too.
        latent: Tensor that receives the gradient; finite, of a shape that broadcasts against ``values``.
        slope: Finite factor of the gradient, a constant; None is one.
    """
    if isinstance(slope, Tensor) and slope.dtype == torch.bool:
        slope = as_factor(slope)
    found: Tensor = _Attach.apply(values, latent, slope)
    return found


def straight_through(latent: Tensor, quantized: Tensor, clip: float | None = None) -> Tensor:
    """Return ``quantized`` exactly, with the gradient of ``latent``.

    Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation (2013), section 4.

    Args:
        latent: Weight that receives the gradient; finite.
        quantized: Values of the result, treated as a constant.
        clip: Where given, the gradient passes only where ``|latent| < clip``.
    """
    return attach(quantized.detach(), latent, None if clip is None else latent.detach().abs() < clip)
