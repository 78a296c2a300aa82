"""Statistical weight scaling and its residual expansion."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from tern_lightning.functional.residual import nested_terms, residual_terms
from tern_lightning.functional.shared import conditional_mean_ternary, row_max, spread
from tern_lightning.ternary_tensor import TernaryTensor


def sws(
    weight: Tensor,
    beta: float = 0.05,
    per_channel: bool = False,
    channel_axis: int = 0,
    mask: Tensor | None = None,
    terms: int = 1,
    mode: Literal["parallel", "sequential"] = "parallel",
) -> TernaryTensor:
    r"""Threshold at a share of the largest magnitude, level at the conditional mean; optionally several terms.

    .. math:: \Delta = \beta \max|W|, \quad T = \mathrm{sign}(W) [|W| \ge \Delta], \quad
        \alpha = E(|W| : |W| \ge \Delta)

    Optimize Deep Convolutional Neural Network with Ternarized Weights and High Accuracy (2019), which calls it
    statistical weight scaling and several terms residual expansion layers.

    ``mode="parallel"`` is the published expansion: every term ternarizes the weight itself, term t with
    :math:`t \beta`. The supports are nested and the terms add up to several times the weight, so that here all levels
    are multiplied by one factor, :math:`c = \langle W, S \rangle / \langle S, S \rangle` with :math:`S` the sum of the
    terms; the published networks leave this to the batch normalization that follows and fail without one.
    ``mode="sequential"`` ternarizes what the terms before leave over, which fits the weight far better.

    Args:
        weight: Float32 weight of any shape.
        beta: Share of the largest magnitude, in [0, 1]; of the first of several terms.
        per_channel: Thresholds and levels per output channel instead of for the layer.
        channel_axis: Axis of the output channels.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.
        terms: Number of terms, >= 1; ``beta * terms`` should stay well below 1.
        mode: What the terms after the first ternarize.

    Example:
        >>> import torch
        >>> sws(torch.tensor([[1.0, -3.0, 0.1]])).dequantize()
        tensor([[ 2., -2.,  0.]])
        >>> sws(torch.tensor([[1.0, -3.0, 0.1]]), beta=0.2, terms=2, mode="sequential").dequantize()
        tensor([[ 1., -3.,  0.]])
    """
    rows = (channel_axis, per_channel, mask)

    def one(values: Tensor, share: float) -> TernaryTensor:
        size = values.abs()
        threshold = share * row_max(size, *rows)
        return conditional_mean_ternary(values, size >= spread(threshold, weight, channel_axis), *rows)

    if terms == 1:
        return one(weight, beta)
    if mode == "sequential":
        return residual_terms(weight, terms, lambda values: one(values, beta))
    return nested_terms(weight, [one(weight, beta * (t + 1)) for t in range(terms)], per_channel)
