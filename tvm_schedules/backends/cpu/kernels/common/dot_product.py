"""The CPU's dot products of four 8-bit values: which there are, and how TIR calls them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tvm_schedules.compat import Emitter
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.targets.registry import TargetSpec

__all__ = ["SDOT", "UDOT", "VNNI", "Dot", "available", "beats_sparse", "tap_cost"]


@dataclass(frozen=True)
class Dot:
    """A dot product: each 32-bit lane of the accumulator adds four products of 8-bit values.

    Args:
        name: LLVM intrinsic.
        lanes: 32-bit lanes a vector.
        signed: Whether the pixels are signed too; then they enter minus 128, and :attr:`offset` makes up for it.
        advantage: Multiply-adds in the time of one addition of a sparse kernel: with a larger share of non-zeros than
            1 / advantage, a ternary layer is faster as a dense one.
    """

    name: str
    lanes: int
    signed: bool
    advantage: float

    @property
    def arm(self) -> bool:
        """Whether it is one of Arm's, whose vectors have four lanes."""
        return self.lanes == 4

    @property
    def offset(self) -> int:
        """What is subtracted from an 8-bit pixel, and so from its zero point."""
        return 128 if self.signed else 0

    def pixels(self, e: Emitter, value: Any) -> Any:
        """Unsigned 8-bit pixels as the instruction wants them."""
        return value ^ e.const(128, f"uint8x{4 * self.lanes}") if self.signed else value

    def __call__(self, e: Emitter, total: Any, pixels: Any, weights: Any) -> Any:
        """``total + sum of pixels * weights`` in each lane; both factors have ``4 * lanes`` bytes."""
        factors = [e.bits(f, f"int8x{4 * self.lanes}") if self.signed else f for f in (pixels, weights)]
        return e.intrinsic(f"int32x{self.lanes}", self.name, total, *factors)

    def by_element(self, e: Emitter, total: Any, weights: Any, pixels: Any, index: int) -> Any:
        """The same with four pixels for all lanes, which are one element of 16: a form that Arm's instructions have."""
        words = e.bits(pixels, "int32x4")
        element = e.bits(e.shuffle([words], [index] * 4), "int8x16")
        # Of which factor LLVM takes an element, where both have the same sign: the second.
        factors = (element, weights) if self == USDOT else (weights, element)
        return self(e, total, *factors)


VNNI = Dot("llvm.x86.avx512.vpdpbusd.512", 16, signed=False, advantage=2.0)
FAST_VNNI = replace(VNNI, advantage=2.05)
"""Of cores that do two a cycle (Zen 5, measured)."""
SDOT = Dot("llvm.aarch64.neon.sdot.v4i32.v16i8", 4, signed=True, advantage=3.0)
USDOT = Dot("llvm.aarch64.neon.usdot.v4i32.v16i8", 4, signed=False, advantage=3.8)
"""Of cores with i8mm, which also have products of matrices: the advantage is theirs (instructions, counted)."""
UDOT = replace(SDOT, name="llvm.aarch64.neon.udot.v4i32.v16i8", signed=False)
"""Of unsigned weights, on every core that has :data:`SDOT`."""


def tap_cost(target: TargetSpec, top: int) -> float:
    """Time of adding one tap of activations up to ``top``, in times of adding one of 8 bits.

    Sums that stay in bytes for many taps save widening, which is most of the work on Arm. On x86 unaligned loads are.
    """
    return 0.7 if top < 16 and target.arm64 else 1.0


SMALL_IMAGE = 256
"""Pixels below which an image is small: a tap adds up so few of them that finding it takes much of the time."""


def beats_sparse(target: TargetSpec, weight: TernaryTensor, top: int, pixels: int) -> bool:
    """Whether a ternary convolution is faster with dot products than by adding up taps.

    Args:
        target: The CPU.
        weight: The layer's weight.
        top: The largest activation.
        pixels: Pixels of one output plane.
    """
    dot = available(target)
    if dot is None or weight.terms > 1 or not weight.is_symmetric:
        return False
    factor = 1.15 if pixels < SMALL_IMAGE and dot == FAST_VNNI else 1.0
    return (1.0 - weight.sparsity()) * dot.advantage * factor * tap_cost(target, top) > 1.0


def available(target: TargetSpec) -> Dot | None:
    """The dot product of a target, if it has one."""
    if "avx512vnni" in target.features and target.vector_bytes == 64:
        return FAST_VNNI if target.tvm.get("mcpu") == "znver5" else VNNI
    if "i8mm" in target.features and target.arm64:
        return USDOT
    return SDOT if "dotprod" in target.features else None
