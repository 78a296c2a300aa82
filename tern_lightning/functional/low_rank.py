"""Low-rank factors of kernels and matrices, and what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def tucker2(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Factor a kernel ``[O, I, *k]`` by its channels, with one rank for both.

    .. math:: W \approx C \times_0 U_O \times_1 U_I

    with the leading left singular vectors of both unfoldings and :math:`C = W \times_0 U_O^\top \times_1 U_I^\top`, the
    higher-order singular value decomposition: Compression of Deep Convolutional Neural Networks for Fast and Low Power
    Mobile Applications (2016). Equal ranks are a design rule of HALOC (AAAI 2023).

    Args:
        weight: Kernel with at least one axis besides the channels.
        rank: Rank of the factors, in [1, min(O, I)].

    Returns:
        The kernels of three convolutions: ``[rank, I, 1, ..]``, ``[rank, rank, *k]`` and ``[O, rank, 1, ..]``.

    Raises:
        ValueError: The rank or the weight does not fit.
    """
    if weight.ndim < 3 or not 1 <= rank <= min(weight.shape[:2]):
        raise ValueError(f"rank must be in 1 to the number of channels, got {rank} for shape {tuple(weight.shape)}")
    exact = weight.detach().double()
    outputs = torch.linalg.svd(exact.flatten(1), full_matrices=False).U[:, :rank]
    inputs = torch.linalg.svd(exact.transpose(0, 1).flatten(1), full_matrices=False).U[:, :rank]
    # Kernels with few positions have fewer singular vectors than channels.
    outputs, inputs = (torch.nn.functional.pad(u, (0, rank - u.shape[1])) for u in (outputs, inputs))
    core = torch.einsum("oi...,or,is->rs...", exact, outputs, inputs)
    ones = (1,) * (weight.ndim - 2)
    first, last = inputs.T.reshape(rank, -1, *ones), outputs.reshape(-1, rank, *ones)
    return first.to(weight), core.to(weight), last.to(weight)


def matrix_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factor a matrix ``[O, I]`` as ``last @ first`` with the least squared error.

    Returns:
        ``first [rank, I]`` and ``last [O, rank]``, with equal norms.

    Raises:
        ValueError: The rank or the weight does not fit.
    """
    if weight.ndim != 2 or not 1 <= rank <= min(weight.shape):
        raise ValueError(f"rank must be in 1 to the smaller side, got {rank} for shape {tuple(weight.shape)}")
    u, s, v = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    root = s[:rank].sqrt()
    return (root[:, None] * v[:rank]).to(weight), (u[:, :rank] * root).to(weight)


@dataclass(frozen=True)
class ConvShape:
    """What the cost of a convolution depends on.

    Attributes:
        inputs: Number of input channels.
        outputs: Number of output channels.
        kernel: Size of the kernel.
        stride: Stride along every axis of the kernel, each >= 1.
        size: Size of the input, one number per axis of the kernel.
        result: Size of the output.
    """

    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    size: tuple[int, ...]
    result: tuple[int, ...]


def macs(shape: ConvShape, rank: int | None = None) -> float:
    """Multiply-accumulate operations of a convolution, or of its three factors with a rank."""
    before, after, taps = math.prod(shape.size), math.prod(shape.result), math.prod(shape.kernel)
    if rank is None:
        return float(shape.inputs * shape.outputs * taps * after)
    return float(shape.inputs * rank * before + rank * rank * taps * after + rank * shape.outputs * after)


def candidate_ranks(inputs: int, outputs: int, multiple: int) -> list[int]:
    """Multiples of a constant up to the smaller number of channels; at least one rank.

    Latency falls in steps with the rank, so that ranks in between cost accuracy and save no time (HALOC, AAAI 2023).
    """
    smaller = min(inputs, outputs)
    return list(range(multiple, smaller + 1, multiple)) or [smaller]
