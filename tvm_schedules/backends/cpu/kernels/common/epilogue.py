"""The emitted code of an :class:`~tvm_schedules.lowering.epilogue.Epilogue`: stores of vectors of pixels, and halos."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from tvm_schedules.backends.cpu.kernels.common.activations import activated
from tvm_schedules.backends.cpu.kernels.common.exponentials import MAGIC
from tvm_schedules.backends.cpu.kernels.common.tiles import transposed
from tvm_schedules.compat import Emitter
from tvm_schedules.ir.layout import ALIGN, Halo
from tvm_schedules.lowering.epilogue import Epilogue

__all__ = [
    "MAGIC",
    "PACKS",
    "every_fourth",
    "fill_borders",
    "fill_gap",
    "fours",
    "packed_bytes",
    "packs_bytes",
    "store_bytes",
    "store_channels",
    "store_four",
    "store_pairs",
    "store_pixels",
    "store_quads",
    "stores_channels",
    "views_of",
]


def views_of(e: Emitter, ep: Epilogue, pointers: Sequence[Any], channels: int, mask: int) -> dict[str, Any]:
    """Buffers over the pointers of an epilogue's arguments, by name.

    Args:
        e: Emitter.
        ep: The epilogue.
        pointers: One for each of ``ep.arguments``.
        channels: Output channels.
        mask: Elements of the mask.
    """
    sizes = ep.sizes(channels, mask)
    return {name: e.view(pointer, sizes[name], t) for (name, t), pointer in zip(ep.arguments, pointers, strict=True)}


def _affine(e: Emitter, ep: Epilogue, views: dict[str, Any], acc: Any, residual: Any, o: Any, lanes: int) -> Any:
    factors = [e.splat(e.load(views[name], o), lanes) for name in ("scale", "bias")]
    return _scaled(e, ep, views, acc, residual, factors, lanes)


def _scaled(
    e: Emitter, ep: Epilogue, views: dict[str, Any], acc: Any, residual: Any, factors: Sequence[Any], lanes: int
) -> Any:
    scale, bias = factors
    y = e.fma(acc, scale, bias) if ep.fma else acc * scale + bias
    if residual is not None:
        weight = e.splat(e.load(views["params"], 0), lanes)
        y = e.fma(residual, weight, y) if ep.fma else y + residual * weight
    return _activate(e, ep, views, y, lanes) if ep.activation else y


def _activate(e: Emitter, ep: Epilogue, views: dict[str, Any], y: Any, lanes: int) -> Any:
    """The activation function, then units of the output's quantization step."""
    exact = ep.out.dtype != "uint8"
    y = activated(e, ep.activation or "", y, lanes, ep.fma, exact, ep.factors)
    if exact:
        return y
    scale, zero = (e.splat(e.load(views["params"], i), lanes) for i in (4, 5))
    return e.fma(y, scale, zero) if ep.fma else y * scale + zero


def _clip(e: Emitter, ep: Epilogue, views: dict[str, Any], y: Any, lanes: int) -> Any:
    if ep.saturates:
        return y
    low, high = (e.splat(e.load(views["params"], i), lanes) for i in (1, 2))
    return e.min(e.max(y, low), high)


def _round_arm(e: Emitter, y: Any, lanes: int) -> Any:
    """To the nearest int32, ties to even, by the instruction for it; LLVM takes two for its own ``lrint``."""
    name = "llvm.aarch64.neon.fcvtns.v4i32.v4f32"
    if lanes % 4:
        return e.intrinsic(f"int32x{lanes}", "llvm.lrint", y)
    parts = [e.intrinsic("int32x4", name, e.shuffle([y], list(range(i, i + 4)))) for i in range(0, lanes, 4)]
    return e.shuffle(parts, list(range(lanes)))


def _quantize(e: Emitter, ep: Epilogue, views: dict[str, Any], y: Any, lanes: int) -> Any:
    """Rounds to int16, saturating, and clips there: half as many operations as clipping float32."""
    i32, i16 = f"int32x{lanes}", f"int16x{lanes}"
    wide = _round_arm(e, y, lanes) if ep.arch == "aarch64" else e.intrinsic(i32, "llvm.lrint", y)
    short = e.cast(e.min(e.max(wide, e.const(-32768, i32)), e.const(32767, i32)), i16)
    if ep.saturates:
        low, high = e.const(0, i16), e.const(255, i16)
    else:
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
    if ep.out.dtype == "uint8":
        value = e.cast(_quantize(e, ep, views, y, lanes), f"uint8x{lanes}")
        store_bytes(e, ep, views, value, n, o, p, lanes)
        return
    inside = e.load(views["mask"], p, lanes)
    value = e.select(e.nonzero(inside, f"uint8x{lanes}"), _clip(e, ep, views, y, lanes), e.const(ep.out.fill, f32))
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
    if ep.out.dtype == "uint8":
        low, high = (e.bits(_quantize(e, ep, views, y, half), u16) for y in ys)
        store_bytes(e, ep, views, e.bits(low | (high << e.const(8, u16)), u8), n, o, p, 2 * half)
        return
    at = _plane(ep.out, n, o) + p
    flags = e.bits(e.load(views["mask"], p, 2 * half), u16)
    for parity, y in enumerate(ys):
        valid = (flags >> e.const(8 * parity, u16)) & e.const(255, u16)
        e.store(
            views["out"],
            at + parity,
            e.select(e.nonzero(valid, u16), _clip(e, ep, views, y, half), e.const(ep.out.fill, f32)),
            half,
            2,
        )


PACKS = {16: "llvm.x86.avx512.{}.512", 8: "llvm.x86.avx2.{}", 4: "llvm.x86.sse2.{}.128"}
"""By 32-bit lanes: x86's packing of two vectors of integers into one of half as wide integers, saturated."""


def packs_bytes(ep: Epilogue, lanes: int) -> bool:
    """Whether :func:`store_four` packs vectors of so many lanes into bytes, and their order costs little."""
    return ep.arch == "x86_64" and lanes in PACKS and stores_channels(ep)


def store_four(
    e: Emitter, ep: Epilogue, views: dict[str, Any], accs: list[Any], n: Any, o: Any, p: Any, pixels: Sequence[int]
) -> None:
    """Epilogue of four vectors of float32 accumulators, of as many pixels from ``p`` on as they have lanes.

    Args:
        e: Emitter of the function.
        ep: The static part of the epilogue.
        views: Buffers of the epilogue's arguments.
        accs: The vectors.
        n: Image.
        o: Output channel.
        p: First pixel.
        pixels: Which pixel every lane holds, vector after vector: see :func:`every_fourth` and :func:`fours`.
    """
    count, lanes = len(pixels), len(pixels) // 4
    if not packs_bytes(ep, lanes):
        store_pixels(e, ep, views, e.shuffle(accs, _inverse(pixels)), n, o, p, count)
        return
    residuals: list[Any] = [None] * 4
    if ep.residual:
        near, zero = e.load(views["residual"], _plane(ep.residual, n, o) + p, count), e.const(0, f"uint8x{count}")
        for i in range(4):
            order = [place for at in pixels[i * lanes : (i + 1) * lanes] for place in (at, count, count, count)]
            residuals[i] = e.cast(e.bits(e.shuffle([near, zero], order), f"int32x{lanes}"), f"float32x{lanes}")
    wide = [
        e.intrinsic(f"int32x{lanes}", "llvm.lrint", _affine(e, ep, views, acc, residual, o, lanes))
        for acc, residual in zip(accs, residuals, strict=True)
    ]
    value = packed_bytes(e, wide, pixels)
    if not ep.saturates:
        low, high = (e.splat(e.cast(e.load(views["params"], i), "uint8"), count) for i in (1, 2))
        value = e.min(e.max(value, low), high)
    store_bytes(e, ep, views, value, n, o, p, count)


def packed_bytes(e: Emitter, wide: Sequence[Any], pixels: Sequence[int], plus: Any = None) -> Any:
    """Four vectors of int32 in one of bytes, by x86's instructions that saturate.

    Args:
        e: Emitter of the function.
        wide: The vectors, whose lanes are among those of :data:`PACKS`.
        pixels: Which place every lane gets, vector after vector.
        plus: Added on the way, where the numbers have 16 bits; a vector of int16.
    """
    count, lanes = len(pixels), len(pixels) // 4
    shorts = [e.intrinsic(f"int16x{2 * lanes}", PACKS[lanes].format("packssdw"), *wide[i : i + 2]) for i in (0, 2)]
    shorts = [short if plus is None else short + plus for short in shorts]
    packed = e.intrinsic(f"uint8x{count}", PACKS[lanes].format("packuswb"), *shorts)
    # In every 16 bytes there are now four lanes of the first vector, four of the second, and so on.
    held = [pixels[i * lanes + 4 * part + k] for part in range(lanes // 4) for i in range(4) for k in range(4)]
    return e.shuffle([packed], _inverse(held)) if held != sorted(held) else packed


def stores_channels(ep: Epilogue) -> bool:
    """Whether :func:`store_channels` has an epilogue's types."""
    return {ep.out.dtype, ep.residual.dtype if ep.residual else "uint8"} == {"uint8"}


def store_channels(e: Emitter, ep: Epilogue, views: dict[str, Any], accs: list[Any], n: Any, o: Any, p: Any) -> None:
    """Epilogue of float32 accumulators of four output channels a vector, where :func:`stores_channels` says so.

    Bytes are transposed, which are a quarter of what the accumulators are.

    Args:
        e: Emitter of the function.
        ep: The static part of the epilogue.
        views: Buffers of the epilogue's arguments.
        accs: A vector a pixel, whole fours of them.
        n: Image.
        o: First of the output channels.
        p: First pixel.
    """
    factors = [e.load(views[name], o, 4) for name in ("scale", "bias")]
    for at in range(0, len(accs), 8):
        width = min(8, len(accs) - at)
        residuals: list[Any] = [None] * width
        if ep.residual:
            rows = [e.load(views["residual"], _plane(ep.residual, n, o + c) + p + at, width) for c in range(4)]
            residuals = [e.cast(e.shuffle(rows, [c * width + i for c in range(4)]), "float32x4") for i in range(width)]
        ys = [
            _scaled(e, ep, views, acc, residual, factors, 4)
            for acc, residual in zip(accs[at : at + width], residuals, strict=True)
        ]
        squares = [_narrowed(e, ep, views, ys[i : i + 4]) for i in range(0, width, 4)]
        each, word = 16 // width, f"int{8 * width}"
        inside = e.bits(e.splat(e.bits(e.load(views["mask"], p + at, width), word), each), "uint8x16")
        for first in range(0, 4, each):
            # Of whole words, or LLVM takes the shuffle apart.
            order = [4 * i + c for c in range(first, first + each) for i in range(width)]
            value = e.bits(_filled(e, ep, e.shuffle(squares, order), inside, 16), f"{word}x{each}")
            for k in range(each):
                part = e.bits(e.shuffle([value], [k]), f"uint8x{width}")
                e.store(views["out"], _plane(ep.out, n, o + first + k) + p + at, part, width)


def store_quads(
    e: Emitter, ep: Epilogue, views: dict[str, Any], sums: Sequence[Any], n: Any, o: Any, p: Any, channels: int
) -> None:
    """Epilogue of int32 accumulators of up to four output channels a vector, of the pixels from ``p`` on.

    Args:
        e: Emitter of the function.
        ep: The static part of the epilogue.
        views: Buffers of the epilogue's arguments.
        sums: A vector a pixel, whole fours of them.
        n: Image.
        o: First of the output channels.
        p: First pixel.
        channels: How many output channels there are.
    """
    rows = [e.cast(value, "float32x4") for value in sums]
    if channels == 4 and stores_channels(ep):
        store_channels(e, ep, views, rows, n, o, p)
        return
    for at in range(0, len(rows), 4):
        for c, value in enumerate(transposed(e, rows[at : at + 4])[:channels]):
            store_pixels(e, ep, views, value, n, o + c, p + at, 4)


def _narrowed(e: Emitter, ep: Epilogue, views: dict[str, Any], ys: list[Any]) -> Any:
    """Four vectors of float32, rounded and clipped, in 16 bytes, by Arm's instructions.

    Of LLVM's own operations each byte that is shuffled later would be narrowed by itself.
    """
    name = "llvm.aarch64.neon.{}"
    wide = [e.intrinsic("int32x4", name.format("fcvtns.v4i32.v4f32"), y) for y in ys]
    shorts = [e.intrinsic("int16x4", name.format("sqxtn.v4i16"), value) for value in wide]
    pairs = [e.shuffle(shorts[i : i + 2], list(range(8))) for i in (0, 2)]
    value = e.shuffle([e.intrinsic("uint8x8", name.format("sqxtun.v8i8"), pair) for pair in pairs], list(range(16)))
    if not ep.saturates:
        low, high = (e.splat(e.cast(e.load(views["params"], i), "uint8"), 16) for i in (1, 2))
        value = e.min(e.max(value, low), high)
    return value


def every_fourth(lanes: int) -> list[int]:
    """The pixels of four vectors when the first holds every fourth pixel, the second those behind them, and so on."""
    return [i + 4 * lane for i in range(4) for lane in range(lanes)]


def fours(lanes: int) -> list[int]:
    """The pixels of four vectors when of every 16 the first holds the first four, and so on: what unpacking gives."""
    return [lane // 4 * 16 + 4 * i + lane % 4 for i in range(4) for lane in range(lanes)]


def _inverse(order: Sequence[int]) -> list[int]:
    """Where in ``order`` every number is."""
    return sorted(range(len(order)), key=order.__getitem__)


def store_bytes(
    e: Emitter, ep: Epilogue, views: dict[str, Any], value: Any, n: Any, o: Any, p: Any, lanes: int
) -> None:
    """Stores quantized pixels, and the halo's value where no pixel is."""
    value = _filled(e, ep, value, e.load(views["mask"], p, lanes), lanes)
    e.store(views["out"], _plane(ep.out, n, o) + p, value, lanes)


def _filled(e: Emitter, ep: Epilogue, value: Any, inside: Any, lanes: int) -> Any:
    value = value & inside
    if ep.out.fill:
        value = value | (e.const(int(ep.out.fill), f"uint8x{lanes}") & ~inside)
    return value


def fill_borders(
    e: Emitter,
    layout: Halo,
    buffer: Any,
    n: Any,
    o: Any,
    written: int,
    *,
    planes: Any = 1,
    block: Any = 0,
    blocks: int = 1,
) -> None:
    """Writes the halo before the first pixel and past the ``written`` elements.

    Args:
        e: Emitter of the function.
        layout: Layout of the planes.
        buffer: The memory of the planes.
        n: Image.
        o: First channel.
        written: Elements from the first pixel on that are written already.
        planes: How many channels.
        block: Which block of the pixels of an image is being written. What comes before the first pixel is written
            with the first one and what follows with the last one: there it is near what the same thread writes.
        blocks: How many there are.
    """
    parts = (
        (0, layout.origin - layout.front, layout.origin),
        (blocks - 1, layout.origin + written, layout.origin + layout.end),
    )
    for place, start, stop in parts:
        if start < stop:
            with e.when(block == place) if blocks > 1 else nullcontext(), e.loop(planes) as i:
                begin = (n * layout.channels + o + i) * layout.plane + start
                fill_gap(e, layout, buffer, begin, stop - start, aligned_end=start < layout.origin)


def fill_gap(e: Emitter, layout: Halo, buffer: Any, start: Any, count: int, aligned_end: bool = False) -> None:
    """Writes the halo's value to ``count`` elements from ``start`` on, and to no more.

    The narrow stores come last, or first where the end is aligned: so the wide ones do not cross cache lines.
    """
    lanes, rest, pieces = ALIGN // layout.itemsize, count, []
    while rest:
        pieces.append((lanes, rest // lanes))
        rest, lanes = rest % lanes, lanes // 2
    at = 0
    for width, rounds in reversed(pieces) if aligned_end else pieces:
        value = e.const(layout.fill, f"{layout.dtype}x{width}" if width > 1 else layout.dtype)
        if rounds:
            with e.loop(rounds) as i:
                e.store(buffer, start + at + i * width, value, width)
        at += rounds * width
