"""Gradient rules of quantized weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tern_lightning.functional.spare import SpareMemory
from tern_lightning.products import as_factor, scaled


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


class _Masked(torch.autograd.Function):
    """A tensor with zeros where it is not kept, and its gradient with zeros there."""

    @staticmethod
    def forward(values: Tensor, keep: Tensor, spare: SpareMemory | None) -> Tensor:
        flags = as_factor(keep)
        if spare is None or values.dtype != torch.float32:
            return scaled(flags, values)
        return spare.empty_like(values).copy_(flags).mul_(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, keep, ctx.spare = inputs
        ctx.save_for_backward(keep)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (keep,) = ctx.saved_tensors
        return _Masked.apply(grads[0], keep, ctx.spare), None, None


def masked(values: Tensor, keep: Tensor, spare: SpareMemory | None = None) -> Tensor:
    """``values`` where ``keep`` (bool) is True and zero elsewhere, and so is the gradient.

    Args:
        values: Float tensor.
        keep: Flags of its shape.
        spare: Memory for the result and for the gradient.
    """
    found: Tensor = _Masked.apply(values, keep, None if torch.compiler.is_compiling() else spare)
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
