"""What follows an accumulation in a kernel that writes planes: scale, bias, residual, clip, rounding to 8 bits, halo.

With accumulator ``a`` of output channel ``o``, all in units of the output's quantization step (or of 1 for a float
output)::

    y = clip(a * scale[o] + bias[o] + residual * params[0], params[1], params[2])

With an activation function the sum is in units of 1, and ``y = clip(f(sum) * params[4] + params[5], ...)``.

Zero points are folded into ``bias`` beforehand. Rounding is to nearest, ties to even, as ONNX ``QuantizeLinear`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_schedules.ir.layout import Halo
from tvm_schedules.lowering.steps import Buffer

__all__ = ["ENDS", "Destination", "Epilogue", "PlanesCall", "power_factors"]

ENDS = {"silu": 87.0, "sigmoid": 87.0, "gelu_sigmoid": 51.0, "gelu_tanh": 6.3, "gelu": 6.3}
"""Where functions of sigmoid shape may be cut off: beyond, they are 0 or what they were given, or their power of two is
no number."""


def power_factors(activation: str | None, reach: float) -> int:
    """Of how many equal factors the power of two in an activation function is made, so that each is a number.

    Args:
        activation: The function's name, or None.
        reach: The largest absolute value that it is given.

    Returns:
        0 where that may be too large, or the function has no power: then what it is given is cut off.
    """
    end = ENDS.get(activation or "", 0.0)
    if reach <= end:
        return 1
    return 2 if reach <= 2 * end and activation in ("silu", "sigmoid", "gelu_sigmoid") else 0


@dataclass(frozen=True)
class Epilogue:
    """The static part of an epilogue.

    Args:
        out: Layout of the output.
        size: Logical output size ``(D, H, W)``.
        residual: Layout of the residual, at the same pitch, or None.
        fma: Whether the target multiplies and adds with one rounding in one instruction.
        arch: Architecture whose instructions may be called by name: ``aarch64``, ``x86_64``, others are as none.
        saturates: Whether the bounds are those of the output's type, so that nothing is left to clip.
        unit: Accumulators are multiples of this number, which the scale takes out.
        activation: An activation function of :mod:`tvm_schedules.passes.activations`, or None.
        factors: What :func:`power_factors` says of the activation function.
    """

    out: Halo
    size: tuple[int, int, int]
    residual: Halo | None = None
    fma: bool = True
    arch: str = ""
    saturates: bool = False
    unit: float = 1.0
    activation: str | None = None
    factors: int = 0

    @property
    def arguments(self) -> list[tuple[str, str]]:
        """Pointer arguments that come after the kernel's own."""
        extra = [("residual", self.residual.dtype)] if self.residual else []
        return [
            ("scale", "float32"),
            ("bias", "float32"),
            ("params", "float32"),
            ("mask", "uint8"),
            *extra,
            ("out", self.out.dtype),
        ]

    def sizes(self, channels: int, mask: int) -> dict[str, int]:
        """Elements of each of :attr:`arguments`, for so many output channels and a mask of that length."""
        sizes = {
            "scale": channels,
            "bias": channels,
            "params": 6 if self.activation else 4,
            "mask": mask,
            "out": self.out.elements,
        }
        return sizes | ({"residual": self.residual.elements} if self.residual else {})


@dataclass(frozen=True)
class Destination:
    """Where a kernel that writes planes puts its results.

    Args:
        epilogue: The static part of the epilogue.
        residual: The buffer of the residual, if there is one.
        out: The buffer of the output.
    """

    epilogue: Epilogue
    residual: list[Buffer]
    out: Buffer


@dataclass(frozen=True)
class PlanesCall:
    """A call of a kernel that ends with an :class:`Epilogue`.

    Args:
        kernel: The kernel's name.
        spec: All that its code depends on; has ``x``, ``pixels`` and ``epilogue``.
        inputs: The arguments before those of the epilogue.
        numbers: ``scale`` and ``bias`` of every output channel, and ``params``.
        destination: Where the results go.
        info: Facts for reports, such as ``reason`` and ``macs``.
    """

    kernel: str
    spec: Any
    inputs: list[Buffer]
    numbers: dict[str, np.ndarray]
    destination: Destination
    info: dict[str, Any]
