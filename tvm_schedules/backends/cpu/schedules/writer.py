"""What templates share: vector width, tiles, rows of scratch, horizontal sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tvm_schedules import compat

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = [
    "Rows",
    "accumulators",
    "evenly",
    "flat_parameters",
    "lanes_of",
    "less_first",
    "registers_of",
    "scratch",
    "template",
    "vector_loop",
]


def lanes_of(target: TargetSpec) -> int:
    """float32 lanes of a vector register."""
    return target.vector_bytes // 4


def registers_of(target: TargetSpec) -> int:
    """Vector registers: 32 on AVX-512 and AArch64, 16 on older x86."""
    wide = target.vector_bytes == 64 or "aarch64" in str(target.tvm.get("mtriple", ""))
    return 32 if wide else 16


def evenly(total: int, most: int) -> tuple[int, int]:
    """Number and size of the fewest equal tiles of at most ``most`` that cover ``total``; the last one may overlap.

    >>> evenly(56, 14), evenly(57, 14), evenly(3, 14)
    ((4, 14), (5, 12), (1, 3))
    """
    count = -(-total // most)
    return count, -(-total // count)


def flat_parameters(function: Any) -> tuple[list[tuple[str, str]], list[int]]:
    """Names and dtypes of a PrimFunc's buffers (made unique), and their sizes."""
    parameters, sizes = [], []
    for i, buffer in enumerate(function.params):
        parameters.append((f"p{i}", compat.dtype_name(buffer)))
        size = 1
        for dim in compat.buffer_shape(buffer):
            size *= dim
        sizes.append(size)
    return parameters, sizes


def template(function: Any, body: Callable[..., None]) -> Any:
    """A private function with the parameters of ``function``, written by ``body(emitter, *flat buffers)``."""
    parameters, sizes = flat_parameters(function)

    def write(e: Any, *pointers: Any) -> None:
        e.align_stack()
        views = [e.view(p, size, dtype) for p, size, (_, dtype) in zip(pointers, sizes, parameters, strict=True)]
        body(e, *views)

    return compat.private_function(parameters, write)


def scratch(e: Any, count: int) -> Any:
    """``count`` float32 on the stack, whatever TVM knows about the device; keep it below some tens of KiB."""
    return e.b.alloc_buffer((count,), "float32", scope="local", annotations={"disable_lower_builtin": True})


def less_first(e: Any, x: Any, base: Any, scalar: Any) -> Callable[[Any, int], Any]:
    """The elements ``x[base + i:base + i + n] - scalar[0]`` as a function of ``i`` and ``n``."""
    return lambda i, n: e.load(x, base + i, n) - e.splat(e.load(scalar, e.integer(0)), n)


def accumulators(e: Any, count: int, vectors: int, lanes: int, value: float = 0.0) -> list[Any]:
    """``count`` rows of vector registers set to ``value``, each a buffer of its own so that LLVM promotes it."""
    dtype = "float32" if lanes == 1 else f"float32x{lanes}"
    rows = [scratch(e, vectors * lanes) for _ in range(count)]
    for row in rows:
        for v in range(vectors):
            e.store(row, e.integer(v * lanes), e.const(value, dtype), lanes)
    return rows


@contextmanager
def vector_loop(e: Any, count: int, lanes: int) -> Iterator[Callable[[Callable[[Any, int], None]], None]]:
    """Runs a statement writer over 0..count: whole vectors in a loop, then what is left one by one."""

    def run(write: Callable[[Any, int], None]) -> None:
        whole = count // lanes
        if whole:
            with e.loop(whole) as i:
                write(i * lanes, lanes)
        if count % lanes:
            with e.loop(count % lanes) as i:
                write(i + whole * lanes, 1)

    yield run


class Rows:
    """Reductions of a contiguous run with several independent vector accumulators.

    A float sum has to keep its order for LLVM, so that it would be computed one element at a time; here the order is
    fixed as: ``unroll`` vectors in turns, then the vectors, then the lanes by halves, then the rest.
    """

    def __init__(self, e: Any, count: int, lanes: int, unroll: int = 4) -> None:
        self.e, self.count = e, count
        self.lanes = lanes if count >= lanes else 1
        whole = count // self.lanes
        self.unroll = max(1, min(unroll, whole))

    def reduce(
        self,
        value: Callable[[Any, int], Any],
        combine: Callable[[Any, Any], Any],
        identity: float,
        into: Any,
        index: Any = 0,
    ) -> None:
        """``into[index] = combine over i of value(i)``; ``value(i, lanes)`` gives the elements i..i+lanes."""
        e, lanes, unroll = self.e, self.lanes, self.unroll
        rows = accumulators(e, unroll, 1, lanes, identity)
        step = lanes * unroll
        with e.loop(self.count // step) as i:
            for u, row in enumerate(rows):
                got = value(i * step + u * lanes, lanes)
                e.store(row, e.integer(0), combine(e.load(row, e.integer(0), lanes), got), lanes)
        done = self.count // step * step
        while done + lanes <= self.count:
            got = value(e.integer(done), lanes)
            e.store(rows[0], e.integer(0), combine(e.load(rows[0], e.integer(0), lanes), got), lanes)
            done += lanes
        for row in rows[1:]:
            both = combine(e.load(rows[0], e.integer(0), lanes), e.load(row, e.integer(0), lanes))
            e.store(rows[0], e.integer(0), both, lanes)
        at = e.expr(index)
        value_, width = e.load(rows[0], e.integer(0), lanes), lanes
        while width > 1:  # halves of the register: scalar reads of it would go through memory
            width //= 2
            halves = [e.t.Shuffle([value_], [e.integer(start + i) for i in range(width)]) for start in (0, width)]
            value_ = combine(*halves)
        e.store(into, at, value_)
        if done < self.count:
            with e.loop(self.count - done) as i:
                e.store(into, at, combine(e.load(into, at), value(i + done, 1)))
