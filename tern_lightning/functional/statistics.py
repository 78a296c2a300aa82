"""Numbers that describe ternary weights: each an update over one layer and a compute over the sums."""

from __future__ import annotations

import torch
from torch import Tensor

from tern_lightning.ternary_tensor import TernaryTensor


def _sparsity_update(ternary: TernaryTensor) -> tuple[Tensor, int]:
    """Number of zero weights, and number of weights."""
    values = ternary.dequantize()
    return (values == 0).sum(), values.numel()


def _code_entropy_update(ternary: TernaryTensor) -> tuple[float, int]:
    """Bits of the layer's codes under a code of its own, and number of weights."""
    size = ternary.codes[0].numel()
    return ternary.entropy() * size, size


def _flip_ratio_update(codes: Tensor, previous: Tensor) -> tuple[Tensor, int]:
    """Number of codes that differ, and number of codes."""
    if codes.shape != previous.shape:
        raise ValueError(f"codes and previous must have one shape, got {tuple(codes.shape)}, {tuple(previous.shape)}")
    return (codes != previous.to(codes.device)).sum(), codes.numel()


def _ratio_compute(part: Tensor | float, total: Tensor | int) -> Tensor:
    """Share of the whole; zero of nothing is zero."""
    return torch.as_tensor(part, dtype=torch.float64) / max(int(total), 1)


def sparsity(ternary: TernaryTensor) -> Tensor:
    """Fraction of zero weights, a float64 scalar in [0, 1]."""
    return _ratio_compute(*_sparsity_update(ternary))


def code_entropy(ternary: TernaryTensor) -> Tensor:
    """Shannon entropy of the codes in bits per weight, a float64 scalar in [0, log2(3) * terms]."""
    return _ratio_compute(*_code_entropy_update(ternary))


def flip_ratio(codes: Tensor, previous: Tensor) -> Tensor:
    """Fraction of codes that changed, a float64 scalar in [0, 1].

    Larq: An Open-Source Library for Training Binarized Neural Networks (2020) logs the same number for binary weights.

    Raises:
        ValueError: The shapes differ.
    """
    return _ratio_compute(*_flip_ratio_update(codes, previous))
