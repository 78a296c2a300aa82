"""What a kernel template writes TIR with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tvm_schedules.ir.layout import ALIGN

__all__ = ["Emitter"]

ON_STACK = {"disable_lower_builtin": True}
"""Keeps TVM from replacing a buffer by memory of its runtime's pool."""


class Emitter:
    """What a kernel template uses to write TIR: a few short names over TVM's IR builder.

    Scalars are int32 unless said otherwise; a vector of ``n`` lanes is written ``dtype + "x" + n``.
    """

    def __init__(self, job: Any = None) -> None:
        from tvm import tirx
        from tvm.script.ir_builder import tirx as builder

        self.b = builder
        self.t = tirx
        self.job, self.count, self.parallel = job, 0, False

    # -- statements ---------------------------------------------------------------------------------------------------
    @contextmanager
    def loop(self, extent: Any, parallel: bool = False) -> Iterator[Any]:
        """A serial or a parallel loop from 0 to ``extent``; a loop of one round is no loop."""
        if isinstance(extent, int) and extent == 1 and not parallel:
            yield self.integer(0)
            return
        with self.b.parallel(0, extent) if parallel else self.b.serial(0, extent) as i:
            yield i

    @contextmanager
    def jobs(self, count: int, parallel: bool) -> Iterator[Any]:
        """The jobs of a kernel, which threads may share: once, around all that :func:`kernel_function` writes.

        The loop itself is in the main function, see :func:`call_private`.
        """
        self.count, self.parallel = count, parallel
        yield self.job

    def local(self, count: int, dtype: str) -> Any:
        """Scratch of ``count`` elements or vectors that lives in registers."""
        base, _, lanes = dtype.partition("x")
        return self.b.alloc_buffer((count * int(lanes or 1),), base, scope="local", annotations=ON_STACK)

    def scratch(self, count: int, dtype: str) -> Any:
        """Scratch memory of one thread, aligned to a cache line: on the stack up to 32 KiB, else from the pool."""
        size = np.dtype(dtype).itemsize
        if count * size > 1 << 15:
            return self.b.alloc_buffer((count,), dtype)
        # Elements of a line each, or the stack is aligned to 16 bytes and every vector crosses lines.
        lines = self.b.alloc_buffer((-(-count * size // ALIGN),), f"uint8x{ALIGN}", scope="local", annotations=ON_STACK)
        return self.view(lines.data, count, dtype)

    def align_stack(self) -> None:
        """Has the stack aligned to a cache line.

        LLVM does that for a variable of that size, but not for registers that it has to put there, which then cross
        lines, each of them. The prefetch keeps the variable.
        """
        self.prefetch(self.scratch(ALIGN, "uint8"), 0)

    def view(self, pointer: Any, size: int, dtype: str) -> Any:
        """A flat buffer over a pointer argument."""
        return self.b.decl_buffer((size,), dtype, data=pointer)

    def part(self, buffer: Any, start: Any, size: int, dtype: str) -> Any:
        """What of a flat buffer begins at element ``start``; its address is computed here, once."""
        return self.view(self.bind(self.b.address_of(buffer[start])), size, dtype)

    def store(self, buffer: Any, index: Any, value: Any, lanes: int = 1, stride: int = 1) -> None:
        """``buffer[index : index + lanes * stride : stride] = value``."""
        self.b.buffer_store(buffer, value, [self.ramp(index, lanes, stride)])

    def bind(self, value: Any) -> Any:
        """Computes an expression here, once; without it, every use of an expression is a copy of it."""
        return self.b.bind(value)

    @contextmanager
    def when(self, condition: Any) -> Iterator[None]:
        """``if condition:``."""
        with self.b.If(condition), self.b.Then():
            yield

    @contextmanager
    def whilst(self, condition: Any) -> Iterator[None]:
        """``while condition:``; what it reads from memory is read before every round."""
        with self.b.While(condition):
            yield

    # -- expressions --------------------------------------------------------------------------------------------------
    def ramp(self, index: Any, lanes: int, stride: int = 1) -> Any:
        """Indices of a vector access."""
        return index if lanes == 1 else self.t.Ramp(self.expr(index), stride, lanes)

    def load(self, buffer: Any, index: Any, lanes: int = 1, stride: int = 1) -> Any:
        """``buffer[index : index + lanes * stride : stride]``."""
        return buffer[self.ramp(index, lanes, stride)]

    def expr(self, value: Any) -> Any:
        """An int32 expression of a Python integer; expressions stay as they are."""
        return self.integer(value) if isinstance(value, int) else value

    def integer(self, value: int) -> Any:
        """An int32 constant."""
        return self.t.IntImm("int32", value)

    def const(self, value: float, dtype: str) -> Any:
        """A constant, broadcast over the lanes of ``dtype``."""
        base, _, lanes = dtype.partition("x")
        scalar = self.t.const(value, base)
        return self.splat(scalar, int(lanes)) if lanes else scalar

    def splat(self, value: Any, lanes: int) -> Any:
        """One scalar in every lane."""
        return value if lanes == 1 else self.t.Broadcast(value, lanes)

    def cast(self, value: Any, dtype: str) -> Any:
        """Numeric conversion."""
        return value.astype(dtype)

    def bits(self, value: Any, dtype: str) -> Any:
        """The same bits read as another type."""
        return self.t.reinterpret(dtype, value)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """``a * b + c`` with one rounding."""
        return self.b.fma(a, b, c)

    def round(self, value: Any) -> Any:
        """To the nearest integer, ties to even."""
        return self.t.nearbyint(value)

    def max(self, a: Any, b: Any) -> Any:
        """Elementwise maximum."""
        return self.t.Max(a, b)

    def min(self, a: Any, b: Any) -> Any:
        """Elementwise minimum."""
        return self.t.Min(a, b)

    def nonzero(self, value: Any, dtype: str) -> Any:
        """Which lanes of a value of type ``dtype`` are not zero."""
        return self.t.NE(value, self.const(0, dtype))

    def shuffle(self, vectors: list[Any], order: list[int]) -> Any:
        """The elements ``order`` of the concatenated vectors."""
        return self.t.Shuffle(vectors, [self.integer(i) for i in order])

    def intrinsic(self, dtype: str, name: str, *args: Any) -> Any:
        """A pure LLVM intrinsic."""
        return self.t.call_llvm_pure_intrin(dtype, name, *args)

    def prefetch(self, buffer: Any, index: Any) -> None:
        """Fetches the cache line of an element, which need not be there, to the first-level cache."""
        read, first, data = (self.integer(i) for i in (0, 3, 1))
        address = self.b.address_of(buffer[index])
        self.b.evaluate(self.t.call_llvm_intrin("void", "llvm.prefetch", address, read, first, data))

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        """``condition ? a : b``, both sides computed."""
        return self.t.Select(condition, a, b)
