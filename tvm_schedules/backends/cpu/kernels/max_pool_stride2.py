"""Maximum over every second place of a row, read from the image as its producer left it: no phases are made first.

The bytes at even and at odd distances from a window's first tap are the low and the high halves of 16-bit words, so
the window of every word is a maximum of whole loads and one shift.

Bound by loads, most of which are not aligned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, fill_gap
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused, Pool
from tvm_schedules.ir.layout import ALIGN, Halo, Window
from tvm_schedules.lowering.layouts import home

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "pool_rows"
"""What artifacts and tuning databases call this kernel."""

BANDS = 4
"""Parts of an image that threads may take."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8, not split into phases.
        out: Layout of the output.
        window: Geometry; of one dimension or two, two pixels a step in a row.
        vector: Bytes a vector register.
        parallel: Whether threads share the jobs.
    """

    x: Halo
    out: Halo
    window: Window
    vector: int
    parallel: bool


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, out``."""
    x, out = spec.x, spec.out
    height, width = out.dims[1:]
    (_, rows, columns), (_, down, right) = spec.window.kernel, spec.window.dilations
    top, left = spec.window.pads[1][0], spec.window.pads[2][0]
    high = -(-height // BANDS)
    bands = -(-height // high)

    def pieces() -> Iterator[tuple[int, int]]:
        """Start and width of a row's vectors; the last one may do pixels once more."""
        size = min(spec.vector // 2, 1 << width.bit_length() - 1)
        yield from ((at, size) for at in range(0, width - size + 1, size))
        if width % size:
            yield width - size, size

    def body(e: Emitter, *pointers: Any) -> None:
        bx, by = e.view(pointers[0], x.elements + ALIGN, "uint8"), e.view(pointers[1], out.elements, "uint8")

        def greatest(base: Any, size: int, parity: int) -> Any:
            """Of the taps at even or odd distances from the first one, in a half of every word."""
            places = [at - parity for at in range(0, columns * right, right) if at % 2 == parity]
            loads = [
                e.load(bx, base + (row * down * x.pitch[1] + place), 2 * size)
                for place in places
                for row in range(rows)
            ]
            return reduce(e.max, loads) if loads else None

        def pixels(base: Any, size: int) -> Any:
            words = f"uint16x{size}" if size > 1 else "uint16"
            even, odd = (greatest(base, size, parity) for parity in (0, 1))
            if odd is not None:
                eight = e.const(8, words)
                even = e.max(even, e.bits(e.bits(odd, words) >> eight, f"uint8x{2 * size}"))
            return e.cast(e.bits(even, words) & e.const(255, words), words.replace("uint16", "uint8"))

        # Bands of rows, as convolutions share out their work: a thread mostly reads what it wrote.
        with e.jobs(x.batch * bands * x.channels, spec.parallel) as job:
            c, rest = job % x.channels, job // x.channels
            band, n = rest % bands, rest // bands
            source = (n * x.channels + c) * x.plane + x.origin - top * x.pitch[1] - left
            target = (n * x.channels + c) * out.plane + out.origin
            first = band * high
            with e.loop(e.min(e.expr(high), height - first)) as i:
                row = source + (first + i) * (spec.window.strides[1] * x.pitch[1])
                to = target + (first + i) * out.pitch[1]
                for at, size in pieces():
                    e.store(by, to + at, pixels(row + 2 * at, size), size)
                with e.when(first + i < height - 1):
                    fill_gap(e, out, by, to + width, out.pitch[1] - width)
            fill_borders(e, out, by, n, c, out.run((1, height, width)), block=band, blocks=bands)

    return kernel_function([("x", "uint8"), ("out", "uint8")], body)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes maxima of bytes with steps of two in a row, where nothing is scaled."""
    if not isinstance(node, Pool) or not ctx.layouts.reads_rows(node):
        return False
    key = home(ctx.graph, node.inputs[0])
    source, x = ctx.packed(key), ctx.layouts[key]
    end = ctx.destination(node, False, x)
    work = x.batch * x.channels * x.dims[1] * x.dims[2]
    spec = Spec(x, end.epilogue.out, node.window, ctx.target.vector_bytes, work > ctx.serial * 8)
    ctx.largest_read = max(ctx.largest_read, x.plane + 2 * ALIGN)
    reason = f"max over {'x'.join(str(k) for k in node.window.kernel if k > 1)}, rows as they are"
    ctx.add_step(node, NAME, spec, [source, end.out], {"reason": reason, "operand": "uint8"})
    return True
