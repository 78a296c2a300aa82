"""Ternary weights with two trained levels: Trained Ternary Quantization and the gradient rule that it introduced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tern_lightning.functional.shared import kept, row_max, row_sum, signs, spread, to_rows
from tern_lightning.ternary_tensor import TernaryTensor


def ttq(
    weight: Tensor,
    positive: Tensor,
    negative: Tensor,
    threshold: float = 0.05,
    sparsity: float | None = None,
    per_channel: bool = False,
    channel_axis: int = 0,
    mask: Tensor | None = None,
) -> TernaryTensor:
    r"""Give the weights beyond a threshold two levels that are trained apart.

    .. math:: \Delta = t \max|W|, \quad \hat W = W_p [W > \Delta] - W_n [W < -\Delta]

    Trained Ternary Quantization (2017), equations 6 and 9. With ``sparsity`` the threshold is the k-th largest
    magnitude instead, section 3.2's other rule, which keeps the share of zeros constant over all layers.

    Args:
        weight: Float32 weight of any shape.
        positive: Level of the positive weights, float32 ``[C]``.
        negative: Magnitude of the level of the negative weights, float32 ``[C]``.
        threshold: Share of the largest magnitude, in [0, 1].
        sparsity: Share of zeros in [0, 1) among all weights, pruned ones included, in place of ``threshold``.
        per_channel: One threshold per output channel; the levels then are too.
        channel_axis: Axis of the output channels.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.

    Example:
        >>> import torch
        >>> ttq(torch.tensor([[1.0, -3.0, 0.1]]), torch.tensor([2.0]), torch.tensor([0.5])).dequantize()
        tensor([[ 2.0000, -0.5000,  0.0000]])
    """
    size = weight.abs()
    if sparsity is None:
        bound = threshold * row_max(size, channel_axis, per_channel, mask)
        chosen = size > spread(bound, weight, channel_axis)
    else:
        chosen = size >= spread(_kth_largest(size, sparsity, per_channel, channel_axis, mask), weight, channel_axis)
    codes = signs(weight, kept(chosen, mask))
    return TernaryTensor(codes[None], positive[None], negative[None], channel_axis)


def _kth_largest(size: Tensor, sparsity: float, per_channel: bool, channel_axis: int, mask: Tensor | None) -> Tensor:
    """The magnitude ``[C]`` that a share ``1 - sparsity`` of the weights reaches; infinite where that is none."""
    rows = to_rows(kept(size, mask), channel_axis, per_channel)
    count = round(rows.shape[1] * (1 - sparsity))
    if count == 0:
        return rows.new_full((rows.shape[0],), float("inf"))
    if torch.compiler.is_compiling():  # other programs know sorting, but not this
        return rows.sort(1).values[:, rows.shape[1] - count]
    return rows.kthvalue(rows.shape[1] - count + 1, 1).values


def trained_levels(latent: Tensor, ternary: TernaryTensor, level_slope: float = 1.0) -> Tensor:
    r"""The values of a one-term weight, with the gradients of Trained Ternary Quantization (2017), equations 7 and 8.

    .. math:: \frac{\partial L}{\partial W_p} = \sum_{T = +1} G, \quad
        \frac{\partial L}{\partial W_n} = - \sum_{T = -1} G, \quad
        \frac{\partial L}{\partial W} = W_p G, \; G, \; W_n G \text{ where } T = +1, 0, -1

    with G the gradient at the values. :math:`W_n` is a magnitude, so that its gradient has a minus, which equation 7
    and several public codes leave out; and the gradient of a negative weight is scaled by the magnitude, not by the
    signed level, which would turn it round.

    Args:
        latent: Float32 weight.
        ternary: Its ternary form; the levels carry a gradient.
        level_slope: Factor of the levels' gradients.
    """
    levels = ternary.positive[0], ternary.negative[0]
    found: Tensor = _TrainedLevels.apply(latent, *levels, ternary.codes[0], ternary.channel_axis, level_slope)
    return found


class _TrainedLevels(torch.autograd.Function):
    """:func:`trained_levels` with few passes over the weight, which it is most of the cost of."""

    @staticmethod
    def forward(
        latent: Tensor, positive: Tensor, negative: Tensor, codes: Tensor, axis: int, level_slope: float
    ) -> Tensor:
        plus, minus = _halves(codes, positive.dtype)
        # Exactly p, -n or zero: the other product is zero.
        return plus.mul_(spread(positive, codes, axis)).addcmul_(minus, spread(negative, codes, axis))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, positive, negative, codes, ctx.axis, ctx.level_slope = inputs
        ctx.save_for_backward(positive, negative, codes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        positive, negative, codes = ctx.saved_tensors
        plus, minus = _halves(codes, grad.dtype)
        rows = ctx.axis, len(positive) > 1
        of_positive, of_negative = (ctx.level_slope * row_sum(grad * half, *rows) for half in (plus, minus))
        slope = plus.mul_(spread(positive, codes, ctx.axis) - 1)
        slope = slope.addcmul_(minus, spread(1 - negative, codes, ctx.axis)).add_(1)
        return grad * slope, of_positive, of_negative, None, None, None


def _halves(codes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """1 where a code is +1, and -1 where it is -1; zero elsewhere."""
    return codes.clamp(min=0).to(dtype), codes.clamp(max=0).to(dtype)
