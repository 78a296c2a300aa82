"""Gradient rules of quantised weights."""

from __future__ import annotations

from torch import Tensor


def attach(values: Tensor, latent: Tensor, slope: Tensor | float | None = None) -> Tensor:
    """Return ``values`` exactly, with ``slope`` times the gradient for ``latent`` besides that of ``values`` itself.

    The difference ``latent - latent.detach()`` is exactly zero, so that, unlike in ``latent + (values -
    latent).detach()``, no rounding touches the values.

    Args:
        values: Result; what it was computed from receives its gradient too.
        latent: Tensor that receives the gradient; finite, of a shape that broadcasts against ``values``.
        slope: Finite factor of the gradient, a constant; None is one.
    """
    carrier = latent - latent.detach()
    return values + (carrier if slope is None else carrier * slope)


def scale_gradient(values: Tensor, slope: float) -> Tensor:
    """Return ``values`` exactly, with ``slope`` times their gradient."""
    return attach(values.detach(), values, slope)


def straight_through(latent: Tensor, quantized: Tensor, clip: float | None = None) -> Tensor:
    """Return ``quantized`` exactly, with the gradient of ``latent``.

    Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation (2013), section 4.

    Args:
        latent: Weight that receives the gradient; finite.
        quantized: Values of the result, treated as a constant.
        clip: Where given, the gradient passes only where ``|latent| < clip``.
    """
    return attach(quantized.detach(), latent, None if clip is None else latent.detach().abs() < clip)
