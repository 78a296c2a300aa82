"""Ternary weights with three of every four not zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tern_lightning.functional.patterns import keep_n_of_m
from tern_lightning.functional.shared import conditional_mean_ternary
from tern_lightning.ternary_tensor import TernaryTensor


def sherry(
    weight: Tensor, per_channel: bool = False, channel_axis: int = 0, mask: Tensor | None = None
) -> TernaryTensor:
    r"""Zero the smallest of every four weights along the input channels; level the mean magnitude of the others.

    Sherry: Hardware-Efficient 1.25-Bit Ternary Quantization via Fine-grained Sparsification (2026). Four
    codes with one zero have :math:`4 \cdot 2^3 = 32` patterns, 5 bits, so 1.25 bits a weight. It is a storage format
    with a fixed quarter of zeros rather than a way to many zeros. Groups of fewer than four weights (at the end of an
    axis) keep at most three. The published scale is one for every 128 weights; here it is one for the layer or one per
    output channel.

    Args:
        weight: Float32 weight with at least two axes.
        per_channel: One level per output channel instead of one for the layer.
        channel_axis: Axis of the output channels.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.

    Example:
        >>> import torch
        >>> sherry(torch.tensor([[1.0, -3.0, 0.1, 2.0]])).dequantize()
        tensor([[ 2., -2.,  0.,  2.]])
    """
    chosen = keep_n_of_m(weight, 3, 4, channel_axis, mask)
    return conditional_mean_ternary(weight, chosen, channel_axis, per_channel, mask)


def arenas(progress: Tensor, warmup: float = 0.1) -> Tensor:
    """Share of the float weight that training adds: linear from 0 to 1 during ``warmup``, then a cosine to 0 at 1."""
    rising = progress / warmup
    falling = (1 + torch.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
    return torch.where(progress < warmup, rising, falling)
