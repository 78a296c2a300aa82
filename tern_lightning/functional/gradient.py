"""Gradient rules of quantised weights."""

from __future__ import annotations

from torch import Tensor


def straight_through(latent: Tensor, quantized: Tensor, clip: float | None = None) -> Tensor:
    """Return ``quantized`` exactly, with the gradient of ``latent``.

    Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation (2013), section 4. The
    difference ``latent - latent.detach()`` is exactly zero, so that, unlike in ``latent + (quantized -
    latent).detach()``, no rounding touches the values.

    Args:
        latent: Weight that receives the gradient; finite.
        quantized: Values of the result, treated as a constant.
        clip: Where given, the gradient passes only where ``|latent| < clip``.
    """
    carrier = latent - latent.detach()
    if clip is not None:
        carrier = carrier * (latent.detach().abs() < clip)
    return quantized.detach() + carrier
