"""Offset-sparse ternary convolution: additions and subtractions only.

A row of weights is a list of offsets of the pixels to add and a list of those to subtract; pixels are the vector
lanes and sums stay in registers. Rows with several terms or unequal levels, and 8-bit rows too long for 16-bit
sums, come in segments, which are added up in float32 (exact for integers below 2**24).

Applies to all ternary layers in planes. Bound by loads: one for every tap and vector, of which most cross a cache
line.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from tvm_schedules.backends.cpu.kernels.common.accumulators import accumulators_of
from tvm_schedules.backends.cpu.kernels.common.epilogue import views_of
from tvm_schedules.backends.cpu.kernels.common.pixel_rows import Parts, row_loops
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.layout import ALIGN
from tvm_schedules.lowering.rules.sparse_conv import NAME, Spec, lower

__all__ = ["NAME", "Spec", "emit", "lower"]

TAPS_AHEAD = 1024
"""How many taps ahead a list is fetched, where a vector is a cache line."""


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, offsets, bounds, row, level, order, <epilogue>``."""
    ep, x = spec.epilogue, spec.x
    types = (("bounds", "int32"), ("row", "int32"), ("level", "float32"), ("order", "int32"))
    arguments = [("x", x.dtype), ("offsets", spec.index), *types]
    count = max(spec.segments, spec.rows)
    kind = accumulators_of(x.dtype, spec.widen)

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], x.elements + spec.pixels, x.dtype)
        sizes = (spec.taps + 1, 2 * count + 1, spec.rows + 1, count, spec.rows)
        named = zip(pointers[1:6], sizes, arguments[1:], strict=True)
        offsets, bounds, row, level, order = (e.view(p, n, t) for p, n, (_, t) in named)
        views = views_of(e, ep, list(pointers[6:]), spec.rows, spec.pixels)

        width_of_index = np.dtype(spec.index).itemsize
        fetch = -(-spec.taps * width_of_index // (count * ALIGN))

        def segment(acc: Any, s: Any, base: Any, parts: Parts, signs: Sequence[int] = (+1, -1)) -> None:
            near = e.part(bx, base, x.elements + spec.pixels, x.dtype)

            def add(index: Any, sign: int) -> None:
                where = e.cast(e.load(offsets, index), "int32")
                for at, width in parts:
                    acc.add(at, width, e.load(near, where + at, width), sign)

            if spec.vector == ALIGN:
                ahead = e.load(bounds, s * 2) + TAPS_AHEAD
                for line in range(fetch):
                    e.prefetch(offsets, ahead + line * (ALIGN // width_of_index))
            for at, width in parts:
                acc.zero(at, width)
            for sign in signs:
                first, last = (e.load(bounds, s * 2 + (sign < 0) + i) for i in range(2))
                rounds = (last - first) // spec.unroll
                with e.loop(rounds) as j:
                    for k in range(spec.unroll):
                        add(first + j * spec.unroll + k, sign)
                if spec.unroll > 1:
                    with e.loop((last - first) % spec.unroll) as j:
                        add(first + rounds * spec.unroll + j, sign)

        pair = [partial(segment, signs=(sign,)) for sign in (+1, -1)] if spec.two_levels else None
        row_loops(e, spec, lambda: kind(e, spec), row, level, views, segment, order, pair)

    return kernel_function([*arguments, *ep.arguments], body)
