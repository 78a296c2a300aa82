"""What follows an accumulation in a kernel that writes planes; the numbers are those of the CPU's epilogue.

Threads cover a plane from the first element of its halo to the last one: a thread whose element is a pixel computes it,
the others write what the halo holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_schedules.compat.gpu import Argument, GpuEmitter
from tvm_schedules.ir.layout import Halo
from tvm_schedules.lowering.epilogue import Epilogue

__all__ = ["arguments", "covered", "finish", "is_pixel", "limits", "rounded"]


def arguments(ep: Epilogue, channels: int, mask: int) -> list[Argument]:
    """The buffers of an epilogue; ``mask`` is the length of the mask."""
    sizes = ep.sizes(channels, mask)
    return [Argument(name, dtype, sizes[name]) for name, dtype in ep.arguments]


def covered(ep: Epilogue) -> int:
    """Elements of an output plane that have to be written, halo included."""
    return ep.out.front + ep.out.end


def is_pixel(e: GpuEmitter, layout: Halo, size: tuple[int, int, int], p: Any) -> Any:
    """Whether the element ``p`` from the origin on is one of ``size`` pixels; the CPU's kernels look it up."""
    d, h, _ = layout.steps()
    rest = e.t.truncmod(p, d)
    checks = [p >= 0, p < layout.run(size)]
    checks += [e.t.truncdiv(rest, h) < size[1]] if size[0] > 1 else []
    checks += [e.t.truncmod(rest, h) < size[2]] if size[0] * size[1] > 1 and h > size[2] else []
    return e.both(*checks)


def limits(e: GpuEmitter, y: Any, params: Any) -> Any:
    """Clips to the epilogue's bounds."""
    return e.min(e.max(y, e.load(params, 1)), e.load(params, 2))


def rounded(e: GpuEmitter, y: Any, dtype: str) -> Any:
    """A clipped number in the output's type; to the nearest integer, ties to even."""
    return e.cast(e.cast(e.round(y), "int32"), "uint8") if dtype == "uint8" else y


def finish(e: GpuEmitter, ep: Epilogue, views: Sequence[Any], acc: Any, n: Any, o: Any, p: Any, pixel: Any) -> None:
    """Writes the element ``p`` of plane ``(n, o)``: the result where ``pixel`` holds, else the halo's value.

    Args:
        e: Emitter.
        ep: The epilogue.
        views: Buffers of :func:`arguments`.
        acc: float32 accumulator.
        n: Image.
        o: Output channel.
        p: Element, counted from the plane's origin, ``-front <= p < end``.
        pixel: Whether it is a pixel.
    """
    scale, bias, params, _, *residual, out = views
    at = (n * ep.out.channels + o) * ep.out.plane + ep.out.origin + p
    with e.when(pixel):
        y = acc * e.load(scale, o) + e.load(bias, o)
        if ep.residual:
            other = (n * ep.residual.channels + o) * ep.residual.plane + ep.residual.origin + p
            y = y + e.cast(e.load(residual[0], other), "float32") * e.load(params, 0)
        e.store(out, at, rounded(e, limits(e, y, params), ep.out.dtype))
    with e.when(e.both(e.t.Not(pixel), p < ep.out.end)):
        e.store(out, at, e.const(int(ep.out.fill) if ep.out.dtype == "uint8" else ep.out.fill, ep.out.dtype))
