"""Zeros that come in groups or channels, and how the signs divide."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from tern_lightning.functional.patterns import Group, group_norms
from tern_lightning.functional.statistics import _ratio_compute
from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.near import check_choice

Side = Literal["output", "input"]


def _group_sparsity_update(ternary: TernaryTensor, group: Group, kernel: bool = True) -> tuple[Tensor, int]:
    """Number of groups without a non-zero weight, and number of groups."""
    norms = group_norms(ternary.dequantize(), group, ternary.channel_axis, kernel)
    return (norms == 0).sum(), norms.numel()


def _channel_sparsity_update(ternary: TernaryTensor, side: Side = "output") -> tuple[Tensor, int]:
    """Number of channels without a non-zero weight, and number of channels."""
    axis = ternary.channel_axis if side == "output" else 1 - ternary.channel_axis
    dead = (ternary.dequantize() == 0).movedim(axis, 0).flatten(1).all(1)
    return dead.sum(), dead.numel()


def _sign_balance_update(ternary: TernaryTensor) -> tuple[Tensor, Tensor]:
    """Number of positive weights, and number of weights that are not zero."""
    values = ternary.dequantize()
    return (values > 0).sum(), (values != 0).sum()


def group_sparsity(ternary: TernaryTensor, group: Group, kernel: bool = True) -> Tensor:
    """Fraction of groups of weights that are zero, a float64 scalar in [0, 1].

    Args:
        ternary: One layer.
        group: Output and input channels of a group; groups at the ends may be smaller.
        kernel: Whether a group spans the whole kernel or one position of it.
    """
    return _ratio_compute(*_group_sparsity_update(ternary, group, kernel))


def channel_sparsity(ternary: TernaryTensor, side: Side = "output") -> Tensor:
    """Fraction of output or input channels without a weight, a float64 scalar in [0, 1].

    Raises:
        ValueError: ``side`` is neither ``output`` nor ``input``.
    """
    check_side(side)
    return _ratio_compute(*_channel_sparsity_update(ternary, side))


def sign_balance(ternary: TernaryTensor) -> Tensor:
    """Share of positive weights among those that are not zero, a float64 scalar in [0, 1]; 0.5 is balanced.

    Example:
        >>> import torch
        >>> from tern_lightning.functional import twn
        >>> sign_balance(twn(torch.tensor([[1.0, 2.0, 2.0, -3.0, 0.1]])))
        tensor(0.6667, dtype=torch.float64)
    """
    positive, total = _sign_balance_update(ternary)
    return _ratio_compute(positive, total)


def check_side(side: str) -> None:
    """Raise ValueError unless ``side`` is ``output`` or ``input``."""
    check_choice("side", side, ("output", "input"))
