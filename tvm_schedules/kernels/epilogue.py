"""What follows an accumulation, fused into the kernel: scale, bias, residual, clip, rounding to 8 bits, halo.

With accumulator ``a`` of output channel ``o``, all in units of the output's quantisation step (or of 1 for a float
output)::

    y = clip(a * scale[o] + bias[o] + residual * params[0], params[1], params[2])

Zero points are folded into ``bias`` beforehand. Rounding is to nearest, ties to even, as ONNX ``QuantizeLinear`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..compat import Emitter
from ..layout import Halo

__all__ = ["MAGIC", "Epilogue", "fill_borders", "store_pairs", "store_pixels"]

MAGIC = 12582912.0
"""1.5 * 2**23; added to a float32 below 2**22, it leaves the nearest integer in the mantissa's low bits."""


@dataclass(frozen=True)
class Epilogue:
    """The static part of an epilogue.

    Args:
        out: Layout of the output.
        size: Logical output size ``(D, H, W)``.
        residual: Layout of the residual, at the same pitch, or None.
        fma: Whether the target multiplies and adds with one rounding in one instruction.
        arm: Whether the target is 64-bit ARM.
    """

    out: Halo
    size: tuple[int, int, int]
    residual: Halo | None = None
    fma: bool = True
    arm: bool = False

    @property
    def arguments(self) -> list[tuple[str, str]]:
        """Pointer arguments beside the kernel's own."""
        extra = [("residual", self.residual.dtype)] if self.residual else []
        return [
            ("scale", "float32"),
            ("bias", "float32"),
            ("params", "float32"),
            ("mask", "uint8"),
            *extra,
            ("out", self.out.dtype),
        ]

    def views(self, e: Emitter, pointers: list[Any], channels: int, mask: int) -> dict[str, Any]:
        """Buffers over the pointers of :attr:`arguments`."""
        sizes = {"scale": channels, "bias": channels, "params": 4, "mask": mask, "out": self.out.elements}
        if self.residual:
            sizes["residual"] = self.residual.elements
        return {
            name: e.view(pointer, sizes[name], dtype)
            for (name, dtype), pointer in zip(self.arguments, pointers, strict=True)
        }


def _affine(e: Emitter, ep: Epilogue, views: dict[str, Any], acc: Any, residual: Any, o: Any, lanes: int) -> Any:
    scale, bias = e.splat(e.load(views["scale"], o), lanes), e.splat(e.load(views["bias"], o), lanes)
    y = e.fma(acc, scale, bias) if ep.fma else acc * scale + bias
    if residual is not None:
        weight = e.splat(e.load(views["params"], 0), lanes)
        y = e.fma(residual, weight, y) if ep.fma else y + residual * weight
    return y


def _clip(e: Emitter, views: dict[str, Any], y: Any, lanes: int) -> Any:
    low, high = (e.splat(e.load(views["params"], i), lanes) for i in (1, 2))
    return e.min(e.max(y, low), high)


def _round_arm(e: Emitter, y: Any, lanes: int) -> Any:
    """To the nearest int32, ties to even, by the instruction for it; LLVM takes two for its own ``lrint``."""
    name = "llvm.aarch64.neon.fcvtns.v4i32.v4f32"
    if lanes % 4:
        return e.intrinsic(f"int32x{lanes}", "llvm.lrint", y)
    parts = [e.intrinsic("int32x4", name, e.shuffle([y], list(range(i, i + 4)))) for i in range(0, lanes, 4)]
    return e.shuffle(parts, list(range(lanes)))


def _quantise(e: Emitter, ep: Epilogue, views: dict[str, Any], y: Any, lanes: int) -> Any:
    """Rounds to int16, saturating, and clips there: half as many operations as clipping float32."""
    i32, i16 = f"int32x{lanes}", f"int16x{lanes}"
    wide = _round_arm(e, y, lanes) if ep.arm else e.intrinsic(i32, "llvm.lrint", y)
    short = e.cast(e.min(e.max(wide, e.const(-32768, i32)), e.const(32767, i32)), i16)
    low, high = (e.splat(e.cast(e.load(views["params"], i), "int16"), lanes) for i in (1, 2))
    return e.min(e.max(short, low), high)


def _plane(layout: Halo, n: Any, o: Any) -> Any:
    return (n * layout.channels + o) * layout.plane + layout.origin


def store_pixels(e: Emitter, ep: Epilogue, views: dict[str, Any], acc: Any, n: Any, o: Any, p: Any, lanes: int) -> None:
    """Epilogue of ``lanes`` float32 accumulators of the pixels ``p, p+1, ...``."""
    f32 = f"float32x{lanes}"
    residual = None
    if ep.residual:
        residual = e.cast(e.load(views["residual"], _plane(ep.residual, n, o) + p, lanes), f32)
    y = _affine(e, ep, views, acc, residual, o, lanes)
    inside = e.load(views["mask"], p, lanes)
    if ep.out.dtype == "uint8":
        value = e.cast(_quantise(e, ep, views, y, lanes), f"uint8x{lanes}")
        if ep.out.fill:
            value = (value & inside) | (e.const(int(ep.out.fill), f"uint8x{lanes}") & ~inside)
        else:
            value = value & inside
    else:
        value = e.select(e.nonzero(inside, f"uint8x{lanes}"), _clip(e, views, y, lanes), e.const(ep.out.fill, f32))
    e.store(views["out"], _plane(ep.out, n, o) + p, value, lanes)


def store_pairs(
    e: Emitter, ep: Epilogue, views: dict[str, Any], even: Any, odd: Any, n: Any, o: Any, p: Any, half: int
) -> None:
    """Epilogue of float32 accumulators of the pixels ``p, p+2, ...`` and ``p+1, p+3, ...``, ``half`` lanes each."""
    f32, u16, u8 = f"float32x{half}", f"uint16x{half}", f"uint8x{2 * half}"
    residuals: list[Any] = [None, None]
    if ep.residual and ep.residual.dtype == "uint8":
        pair = e.bits(e.load(views["residual"], _plane(ep.residual, n, o) + p, 2 * half), u16)
        residuals = [e.cast(pair & e.const(255, u16), f32), e.cast(pair >> e.const(8, u16), f32)]
    elif ep.residual:
        at = _plane(ep.residual, n, o) + p
        residuals = [e.load(views["residual"], at, half, 2), e.load(views["residual"], at + 1, half, 2)]
    ys = [_affine(e, ep, views, a, r, o, half) for a, r in zip((even, odd), residuals, strict=True)]
    at = _plane(ep.out, n, o) + p
    inside = e.load(views["mask"], p, 2 * half)
    if ep.out.dtype == "uint8":
        low, high = (e.bits(_quantise(e, ep, views, y, half), u16) for y in ys)
        value = e.bits(low | (high << e.const(8, u16)), u8) & inside
        if ep.out.fill:
            value = value | (e.const(int(ep.out.fill), u8) & ~inside)
        e.store(views["out"], at, value, 2 * half)
        return
    flags = e.bits(inside, u16)
    for parity, y in enumerate(ys):
        valid = (flags >> e.const(8 * parity, u16)) & e.const(255, u16)
        e.store(
            views["out"],
            at + parity,
            e.select(e.nonzero(valid, u16), _clip(e, views, y, half), e.const(ep.out.fill, f32)),
            half,
            2,
        )


def fill_borders(e: Emitter, layout: Halo, buffer: Any, n: Any, o: Any, written: int) -> None:
    """Writes the halo of plane ``(n, o)`` before the first pixel and past the ``written`` elements."""
    base = (n * layout.channels + o) * layout.plane
    for start, stop in (
        (layout.origin - layout.front, layout.origin),
        (layout.origin + written, layout.origin + layout.end),
    ):
        lanes, at = 64 // layout.itemsize, start
        while at < stop:
            while at + lanes > stop:
                lanes //= 2
            rounds = (stop - at) // lanes
            with e.loop(rounds) as i:
                e.store(
                    buffer,
                    base + at + i * lanes,
                    e.const(layout.fill, f"{layout.dtype}x{lanes}" if lanes > 1 else layout.dtype),
                    lanes,
                )
            at += rounds * lanes
