"""Blended coarse gradient descent: weights that drift to their quantized values, activations with a trained step."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

Derivative = Literal["exact", "mean", "two"]


def blend(weight: Tensor, quantized: Tensor, rho: float) -> Tensor:
    r"""The point from which a blended step starts, :math:`(1 - \rho) W + \rho Q(W)`.

    Blended Coarse Gradient Descent for Full Quantization of Deep Neural Networks (2019): the step
    :math:`W \leftarrow (1 - \rho) W + \rho Q(W) - \eta \tilde g` takes its coarse gradient at Q(W).
    """
    return torch.lerp(weight, quantized.to(weight), rho)


class _Coarse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, levels: int, derivative: Derivative) -> Tensor:
        index = torch.ceil(x.float() / step).clamp(0, levels)
        ctx.save_for_backward(x, step, index)
        ctx.levels, ctx.derivative = levels, derivative
        return (index * step).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, step, index = ctx.saved_tensors
        top = ctx.levels * step
        inside = (x > 0) & (x <= top)
        grad_x = torch.where(inside, grad, torch.zeros_like(grad)) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return grad_x, None, None, None
        middle = {"exact": index, "mean": torch.full_like(index, (ctx.levels + 1) / 2), "two": torch.zeros_like(index)}
        slope = torch.where(inside, middle[ctx.derivative], torch.where(x > top, float(ctx.levels), 0.0))
        return grad_x, (grad.float() * slope).sum(), None, None


def coarse_activation(x: Tensor, step: Tensor, bits: int, derivative: Derivative = "mean") -> Tensor:
    r"""Round positive values up to a multiple of a trained step, at most the top level; others become zero.

    .. math:: y = a \min(\lceil x / a \rceil, L) [x > 0], \quad L = 2^b - 1

    Blended Coarse Gradient Descent for Full Quantization of Deep Neural Networks (2019). The gradient
    passes straight through where :math:`0 < x \le L a`. That of the step counts, for every element with x > La, L; for
    one inside ``exact``: its level (the derivative almost everywhere), ``mean``: (L + 1) / 2, which is the paper's
    three-valued choice, or ``two``: nothing, the choice of PACT (2018).

    Args:
        x: Any float tensor.
        step: float32 scalar, positive.
        bits: Width of the integers b, 1 to 8.
        derivative: ``exact``, ``mean`` or ``two``.
    """
    if torch.jit.is_tracing():  # a trace can be saved without functions of this package only
        return (torch.ceil(x.float() / step).clamp(0, 2**bits - 1) * step).to(x.dtype)
    return _Coarse.apply(x, step, 2**bits - 1, derivative)


def gaussian_step(bits: int) -> float:
    """The step that rounds a rectified standard normal variable to ``2**bits`` nearest levels with the least error.

    The initial step of a trained activation in units of the root mean square of its positive values; 1.22, 0.65 and
    0.19 for 1, 2 and 4 bits.

    Raises:
        ValueError: ``bits`` is not in 1 to 8.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must be in 1 to 8, got {bits}")
    levels = 2**bits - 1
    x = torch.linspace(0, 8, 80001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2)

    def error(step: float) -> float:
        return float(((x - step * torch.round(x / step).clamp(max=levels)).square() * density).sum())

    low, high = 1e-3, 3.0
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > 1e-5:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if error(left) < error(right) else (left, high)
    return (low + high) / 2
