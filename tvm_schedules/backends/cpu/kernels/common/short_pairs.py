"""Products of float32 matrices by integers of 16 bits, two at a time: what x86 multiplies twice as fast.

The largest number of a matrix becomes the largest integer with which 32 bits hold the sum of all products, at most
32767. Beside sums of 64 products these are 13 bits: an error of a part in 10,000 of the largest product.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any

from tvm_schedules.compat import Emitter

__all__ = ["PAIR_SUMS", "ShortPairs"]

PAIR_SUMS = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
"""By lanes, the instruction that multiplies 16-bit integers and adds the products of neighbors up."""

_TINY = 1e-30
"""Largest numbers below it count as this."""


class ShortPairs:
    """Pairs of 16-bit integers of a matrix product, each in the place of one 32-bit integer."""

    def __init__(self, e: Emitter, lanes: int, depth: int) -> None:
        """Begins with nothing.

        Args:
            e: Emitter of the function.
            lanes: 32-bit lanes of a vector.
            depth: Products of a sum.
        """
        self.e, self.lanes, self.depth = e, lanes, depth
        self.count = -(-depth // 2)
        self.top = min(32767, isqrt((2**31 - 1) // (2 * self.count)))

    def largest(self, count: int, load: Callable[[Any, int], Any], across: Callable[[Any, Any], Any]) -> Any:
        """The largest magnitude of a matrix.

        Args:
            count: Its elements.
            load: ``load(index, lanes)`` gives some of them.
            across: Combines the lanes of a register by a function of two vectors.
        """
        e, n = self.e, self.lanes
        most = e.local(n, "float32")
        e.store(most, 0, e.const(_TINY, f"float32x{n}"), n)

        def take(value: Any, lanes: int) -> None:
            kind = f"int32x{lanes}" if lanes > 1 else "int32"
            size = e.bits(e.bits(value, kind) & e.const(0x7FFFFFFF, kind), kind.replace("int", "float"))
            e.store(most, 0, e.max(e.load(most, 0, lanes), size), lanes)

        with e.loop(count // n) as i:
            take(load(i * n, n), n)
        if count % n:
            with e.loop(count % n) as i:
                take(load(i + count // n * n, 1), 1)
        return across(most, e.max)

    def factor(self, largest: Any) -> Any:
        """What a matrix is multiplied by."""
        return self.e.const(float(self.top), "float32") / largest

    def unit(self, one: Any, other: Any) -> Any:
        """What the sums are multiples of, by the largest numbers of both matrices."""
        return one * other * self.e.const(1 / self.top**2, "float32")

    def joined(self, first: Any, second: Any, factor: Any, lanes: int) -> Any:
        """Pairs of numbers: the first ones, and those that follow them in the depth, or None behind its end."""
        e, kind = self.e, f"int32x{lanes}" if lanes > 1 else "int32"

        def whole(value: Any) -> Any:
            return e.cast(e.round(value * e.splat(factor, lanes)), kind)

        low = whole(first) & e.const(0xFFFF, kind)
        return low if second is None else low | (whole(second) << e.const(16, kind))

    def add(self, total: Any, one: Any, other: Any) -> Any:
        """``total`` and the products of two vectors of pairs."""
        e, n = self.e, self.lanes
        shorts = f"int16x{2 * n}"
        return total + e.intrinsic(f"int32x{n}", PAIR_SUMS[n], e.bits(one, shorts), e.bits(other, shorts))
