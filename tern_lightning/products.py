"""Products of flags and codes with floats, as fast as PyTorch does them on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def as_factor(flags: Tensor) -> Tensor:
    """Flags as int8 zeros and ones, without a copy."""
    # Graphs that are made of a module get an operator that other programs have too.
    return flags.to(torch.int8) if torch.compiler.is_compiling() else flags.view(torch.int8)


def scaled(codes: Tensor, values: Tensor) -> Tensor:
    """Product of flags or codes with float values of their shape, or of one that broadcasts to it.

    On CPUs it is several times as fast as selecting, and as a product of tensors of two types, in which PyTorch uses no
    vectors. That is what it is where values need a gradient, because autograd then keeps one byte a code and not four.
    """
    codes = as_factor(codes) if codes.dtype == torch.bool else codes
    return values * codes if values.requires_grad else codes.to(values.dtype).mul_(values)
