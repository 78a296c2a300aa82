"""Layer inputs that are rounded with a scale of every token's own, as in the training of b1.58 models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST_TOKEN = 1e-5
"""A token's largest magnitude counts as this at least, so that a token of zeros has a scale."""


@dataclass(frozen=True)
class TokenRange:
    """Signed quantization with a scale of every token's own, which its largest magnitude gives.

    ``q = clip(round_half_even(x * scale), -2**(bits - 1), 2**(bits - 1) - 1)`` and ``x ~ q / scale`` with
    ``scale = (2**(bits - 1) - 1) / max(|x|, 1e-5)`` over the last axis, as b1.58 models are trained: "The Era of 1-bit
    LLMs: All Large Language Models are in 1.58 Bits" (2024).

    Attributes:
        bits: Width of the integers, 2 to 8.

    Raises:
        ValueError: ``bits`` is outside its range.

    Example:
        >>> TokenRange(bits=2).fake_quantize(torch.tensor([[4.0, 1.9], [0.5, -0.3]]))
        tensor([[ 4.0000,  0.0000],
                [ 0.5000, -0.5000]])
    """

    bits: int = 8

    def __post_init__(self) -> None:
        check_bits(self.bits)

    @property
    def levels(self) -> int:
        """The largest integer counted from the smallest, as those of other ranges."""
        return 2**self.bits - 1

    @property
    def low(self) -> int:
        """The smallest integer."""
        return -(2 ** (self.bits - 1))

    @property
    def high(self) -> int:
        """The largest integer, that of a token's largest magnitude."""
        return 2 ** (self.bits - 1) - 1

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Round ``x [..., features]`` to the values that the integers stand for; same shape and dtype, no gradient."""
        wide = x.detach().float()
        top = wide.abs().amax(-1, keepdim=True).clamp(min=SMALLEST_TOKEN)
        scale = torch.full_like(top, self.high) / top
        return ((wide * scale).round().clamp(self.low, self.high) / scale).to(x.dtype)


class TokenFakeQuantizer:
    """Forward pre-hook that fake-quantizes the first input of a layer with a scale of every token's own.

    It has no state; gradients pass straight through, as in the training of b1.58 models.

    Args:
        bits: Width of the integers, 2 to 8.

    Attributes:
        ready: True, since there is nothing to observe.
    """

    ready = True

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return the inputs with the first one fake-quantized, None to leave them alone."""
        if not inputs or not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
            return None
        x = inputs[0]
        rounded = self.range().fake_quantize(x)
        return (rounded + (x - x.detach()) if x.requires_grad else rounded, *inputs[1:])

    def range(self) -> TokenRange:
        """The quantization that is in use."""
        return TokenRange(self.bits)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"bits": self.bits, "ready": True, "granularity": "per_token"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        self.bits = state["bits"]


def check_bits(bits: int) -> None:
    """Raise ValueError unless ``bits`` is a width that fits an unsigned byte and has a step."""
    if not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"bits must be an integer in 2 to 8, got {bits!r}")
