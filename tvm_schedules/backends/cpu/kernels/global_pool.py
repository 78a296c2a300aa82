"""Average over all pixels of a plane, to a plain ``[N, C]`` tensor of 8-bit or float values.

Bound by reading the planes.
"""

from __future__ import annotations

from typing import Any

from tvm_schedules.backends.cpu.kernels.common.epilogue import MAGIC
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.lowering.rules.global_pool import NAME, PARTIAL_SUMS, Spec, lower

__all__ = ["NAME", "Spec", "emit", "lower"]


SUMS = {32: ("int64x4", "llvm.x86.avx2.psad.bw"), 16: ("int64x2", "llvm.x86.sse2.psad.bw")}
"""x86's sums of eight bytes each, by the bytes of a vector."""


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, mask, params, out``; ``out = clip(sum * params[0] + params[1], params[2:])``."""
    x = spec.x

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], x.elements + spec.pixels, x.dtype)
        mask, params = e.view(pointers[1], spec.pixels, "uint8"), e.view(pointers[2], 4, "float32")
        out = e.view(pointers[3], x.batch * x.channels, spec.out)
        sums = _float_sum if x.dtype != "uint8" else _SUMS.get(spec.arch, _byte_sum)
        with e.jobs(x.batch * x.channels, spec.parallel) as plane:
            total = sums(e, spec, bx, mask, plane * x.plane + x.origin)
            y = total * e.load(params, 0) + e.load(params, 1)
            y = e.min(e.max(y, e.load(params, 2)), e.load(params, 3))
            if spec.out == "uint8":
                y = e.cast(e.bits(y + e.const(MAGIC, "float32"), "int32"), "uint8")
            e.store(out, plane, y)

    return kernel_function([("x", x.dtype), ("mask", "uint8"), ("params", "float32"), ("out", spec.out)], body)


def _float_sum(e: Emitter, spec: Spec, x: Any, mask: Any, first: Any) -> Any:
    """The sum of a plane of floats, in partial sums that are the same on every target."""
    lanes = PARTIAL_SUMS
    f32 = f"float32x{lanes}"
    acc, single = e.local(lanes, "float32"), e.local(1, "float32")
    e.store(acc, 0, e.const(0.0, f32), lanes)
    with e.loop(spec.pixels // lanes) as i:
        inside = e.nonzero(e.load(mask, i * lanes, lanes), f"uint8x{lanes}")
        value = e.select(inside, e.load(x, first + i * lanes, lanes), e.const(0.0, f32))
        e.store(acc, 0, e.load(acc, 0, lanes) + value, lanes)
    e.store(single, 0, e.const(0.0, "float32"))
    with e.loop(lanes) as i:
        e.store(single, 0, e.load(single, 0) + e.load(acc, i))
    return e.load(single, 0)


def _byte_sum(e: Emitter, spec: Spec, x: Any, mask: Any, first: Any) -> Any:
    """The exact sum of a plane of bytes."""
    lanes = PARTIAL_SUMS
    acc, single = e.local(lanes, "int32"), e.local(1, "int32")
    e.store(acc, 0, e.const(0, f"int32x{lanes}"), lanes)
    with e.loop(spec.pixels // lanes) as i:
        value = e.load(x, first + i * lanes, lanes) & e.load(mask, i * lanes, lanes)
        e.store(acc, 0, e.load(acc, 0, lanes) + e.cast(value, f"int32x{lanes}"), lanes)
    e.store(single, 0, e.const(0, "int32"))
    with e.loop(lanes) as i:
        e.store(single, 0, e.load(single, 0) + e.load(acc, i))
    return e.cast(e.load(single, 0), "float32")


def _byte_sum_by_x86(e: Emitter, spec: Spec, x: Any, mask: Any, first: Any) -> Any:
    """Sums of eight bytes at once, as distances from zero."""
    whole, rest = divmod(spec.pixels, spec.wide)
    total = e.local(1, "int32")
    e.store(total, 0, e.const(0, "int32"))

    def add(width: int, rounds: int, begin: int) -> None:
        kind, name = SUMS[width]
        lanes = width // 8
        acc = e.local(lanes, "int64")
        e.store(acc, 0, e.const(0, kind), lanes)
        with e.loop(rounds) as i:
            at = i * width + begin
            value = e.load(x, first + at, width) & e.load(mask, at, width)
            part = e.intrinsic(kind, name, value, e.const(0, f"uint8x{width}"))
            e.store(acc, 0, e.load(acc, 0, lanes) + part, lanes)
        for lane in range(lanes):
            e.store(total, 0, e.load(total, 0) + e.cast(e.load(acc, lane), "int32"))

    if whole:
        add(spec.wide, whole, 0)
    if rest:
        add(16, 1, whole * spec.wide)
    return e.cast(e.load(total, 0), "float32")


def _byte_sum_by_arm(e: Emitter, spec: Spec, x: Any, mask: Any, first: Any) -> Any:
    """Pairs of bytes are added up, and pairs of these sums."""
    acc, total = e.local(4, "int32"), e.local(1, "int32")
    e.store(acc, 0, e.const(0, "int32x4"), 4)
    with e.loop(spec.pixels // 16) as i:
        value = e.load(x, first + i * 16, 16) & e.load(mask, i * 16, 16)
        pairs = e.intrinsic("int16x8", "llvm.aarch64.neon.uaddlp.v8i16.v16i8", value)
        part = e.intrinsic("int32x4", "llvm.aarch64.neon.uaddlp.v4i32.v8i16", pairs)
        e.store(acc, 0, e.load(acc, 0, 4) + part, 4)
    e.store(total, 0, e.const(0, "int32"))
    for lane in range(4):
        e.store(total, 0, e.load(total, 0) + e.load(acc, lane))
    return e.cast(e.load(total, 0), "float32")


_SUMS = {"x86_64": _byte_sum_by_x86, "aarch64": _byte_sum_by_arm}
"""By architecture; others have no instruction that adds up bytes."""
