"""Offset-sparse ternary convolution: additions and subtractions only.

A row of weights is a list of offsets of the pixels to add and a list of those to subtract; pixels are the vector
lanes and sums stay in registers. Rows with several terms or unequal levels, and 8-bit rows too long for 16-bit
sums, come in segments, which are added up in float32 (exact for integers below 2**24).

8-bit activations are read two bytes at a time as one 16-bit word w: ``A += w`` and ``B += w >> 8``. At the end B is
the odd pixels' sum and ``A - (B << 8)`` the even pixels', modulo 2**16, which is exact while no sum of one sign
exceeds 32767.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compat import Emitter, private_function
from ..graph import Fused, Linear, Windowed
from ..layout import Halo, Window
from ..passes.layouts import in_planes, input_key, window_of
from ..tensor import TernaryTensor
from .epilogue import Epilogue, fill_borders, store_pairs, store_pixels

if TYPE_CHECKING:
    from ..lower import Lowering

__all__ = ["Spec", "emit", "lower", "segments", "taps_limit"]


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8 or float32.
        rows: Output channels.
        taps: Offsets in all.
        segments: Segments in all; 0 if every row is one segment and needs nothing but the epilogue's scale.
        vector: Bytes a vector register.
        block: Vectors a pixel block.
        chunks: Blocks of output channels, for threads.
        parallel: Whether to start threads.
        epilogue: What follows.
    """

    x: Halo
    rows: int
    taps: int
    segments: int
    vector: int
    block: int
    chunks: int
    parallel: bool
    epilogue: Epilogue

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane: whole vectors."""
        lanes = self.vector // self.x.itemsize
        return -(-self.x.run(self.epilogue.size) // lanes) * lanes


def taps_limit(x: Halo, largest: int = 255) -> int:
    """Taps of one sign in a segment at most: what 16-bit sums of values up to ``largest`` hold; float has no limit."""
    return 32767 // largest if x.dtype == "uint8" else 1 << 30


def segments(codes: np.ndarray, levels: np.ndarray, window: Window, x: Halo, limit: int) -> dict[str, np.ndarray]:
    """Expands ternary codes into the kernel's lists (numpy; runs when a library is loaded).

    Args:
        codes: int8 ``[terms, O, C / groups, kd, kh, kw]``.
        levels: float32 ``[terms, O]``: each term's level relative to the epilogue's scale; all 1 for a single term.
        window: Geometry.
        x: Layout of the input.
        limit: Taps of one sign that a segment may have at most.

    Returns:
        ``offsets`` int32 (sorted by address in each run), ``bounds`` int32 ``[2 * segments + 1]`` (begin of the
        additions and of the subtractions of each segment), ``row`` int32 ``[O + 1]`` (first segment of each row),
        ``level`` float32 ``[segments]``.
    """
    terms, rows, fan = codes.shape[:3]
    table = np.array([x.offset(0, phase, shift) for phase, shift in window.taps()], np.int64)
    per_channel = x.phases * x.plane
    offsets: list[np.ndarray] = []
    counts: list[int] = []
    row, level = [0], []
    for o in range(rows):
        first = (o * window.groups // rows) * fan
        address = ((np.arange(fan) + first)[:, None] * per_channel + table).ravel()
        for t in range(terms):
            flat = codes[t, o].reshape(-1)
            plus, minus = np.sort(address[flat > 0]), np.sort(address[flat < 0])
            if t and not len(plus) and not len(minus):
                continue
            pieces = max(1, -(-max(len(plus), len(minus)) // limit))
            for part_plus, part_minus in zip(np.array_split(plus, pieces), np.array_split(minus, pieces), strict=True):
                offsets += [part_plus, part_minus]
                counts += [len(part_plus), len(part_minus)]
                level.append(levels[t, o])
        row.append(len(level))
    return {
        "offsets": np.concatenate([*offsets, [0]]).astype(np.int32),
        "bounds": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        "row": np.array(row, np.int32),
        "level": np.array(level, np.float32),
    }


class _Bytes:
    """Sums of 8-bit pixels in two 16-bit words."""

    def __init__(self, e: Emitter, spec: Spec) -> None:
        self.e, self.lanes, self.half = e, spec.vector, spec.vector // 2
        self.words = [e.local(spec.block * self.half, "uint16") for _ in range(2)]
        self.parts = 2

    def zero(self, v: int) -> None:
        for part in self.words:
            self.e.store(part, v * self.half, self.e.const(0, f"uint16x{self.half}"), self.half)

    def add(self, v: int, pixels: Any, sign: int) -> None:
        e, u16 = self.e, f"uint16x{self.half}"
        word = e.bits(pixels, u16)
        for part, term in zip(self.words, (word, word >> e.const(8, u16)), strict=True):
            old = e.load(part, v * self.half, self.half)
            e.store(part, v * self.half, old + term if sign > 0 else old - term, self.half)

    def sums(self, v: int) -> list[Any]:
        e, half = self.e, self.half
        a, b = (e.load(part, v * half, half) for part in self.words)
        even = a - (b << e.const(8, f"uint16x{half}"))
        return [e.cast(e.bits(word, f"int16x{half}"), f"float32x{half}") for word in (even, b)]

    def store(self, ep: Epilogue, views: dict[str, Any], sums: list[Any], n: Any, o: Any, p: Any) -> None:
        store_pairs(self.e, ep, views, sums[0], sums[1], n, o, p, self.half)


class _Floats:
    """Sums of 32-bit float pixels."""

    def __init__(self, e: Emitter, spec: Spec) -> None:
        self.e, self.lanes = e, spec.vector // 4
        self.half = self.lanes
        self.total = e.local(spec.block * self.lanes, "float32")
        self.parts = 1

    def zero(self, v: int) -> None:
        self.e.store(self.total, v * self.lanes, self.e.const(0.0, f"float32x{self.lanes}"), self.lanes)

    def add(self, v: int, pixels: Any, sign: int) -> None:
        old = self.e.load(self.total, v * self.lanes, self.lanes)
        self.e.store(self.total, v * self.lanes, old + pixels if sign > 0 else old - pixels, self.lanes)

    def sums(self, v: int) -> list[Any]:
        return [self.e.load(self.total, v * self.lanes, self.lanes)]

    def store(self, ep: Epilogue, views: dict[str, Any], sums: list[Any], n: Any, o: Any, p: Any) -> None:
        store_pixels(self.e, ep, views, sums[0], n, o, p, self.lanes)


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, offsets, bounds, row, level, <epilogue>``."""
    ep, x = spec.epilogue, spec.x
    arguments = [("x", x.dtype), ("offsets", "int32"), ("bounds", "int32"), ("row", "int32"), ("level", "float32")]
    count = max(spec.segments, spec.rows)
    lanes = spec.vector // x.itemsize
    full, tail = divmod(spec.pixels // lanes, spec.block)
    blocks = full + bool(tail)
    per_chunk = -(-spec.rows // spec.chunks)
    image = x.channels * x.phases * x.plane

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], x.elements + spec.pixels, x.dtype)
        sizes = (("int32", spec.taps + 1), ("int32", 2 * count + 1), ("int32", spec.rows + 1), ("float32", count))
        offsets, bounds, row, level = (e.view(p, n, t) for p, (t, n) in zip(pointers[1:5], sizes, strict=True))
        views = ep.views(e, list(pointers[5:]), spec.rows, spec.pixels)

        def segment(acc: Any, s: Any, base: Any, vectors: int) -> None:
            for v in range(vectors):
                acc.zero(v)
            for sign, index in ((+1, 0), (-1, 1)):
                first, last = (e.load(bounds, s * 2 + index + i) for i in range(2))
                with e.loop(last - first) as j:
                    at = e.load(offsets, first + j) + base
                    for v in range(vectors):
                        acc.add(v, e.load(bx, at + v * lanes, lanes), sign)

        def several(acc: Any, total: list[Any], base: Any, o: Any, vectors: int) -> None:
            half = acc.half
            for part in total:
                for v in range(vectors):
                    e.store(part, v * half, e.const(0.0, f"float32x{half}"), half)
            first = e.load(row, o)
            with e.loop(e.load(row, o + 1) - first) as i:
                segment(acc, first + i, base, vectors)
                weight = e.splat(e.load(level, first + i), half)
                for v in range(vectors):
                    for part, value in zip(total, acc.sums(v), strict=True):
                        old = e.load(part, v * half, half)
                        new = e.fma(value, weight, old) if ep.fma else old + value * weight
                        e.store(part, v * half, new, half)

        def pixels(acc: Any, total: list[Any], n: Any, block: Any, o: Any, vectors: int) -> None:
            start = block * (spec.block * lanes)
            base = start + n * image
            if spec.segments:
                several(acc, total, base, o, vectors)
            else:
                segment(acc, o, base, vectors)
            for v in range(vectors):
                sums = [e.load(part, v * acc.half, acc.half) for part in total] if total else acc.sums(v)
                acc.store(ep, views, sums, n, o, start + v * lanes)

        def rows(acc: Any, total: list[Any], n: Any, block: Any, o: Any) -> None:
            if full:
                with e.when(block < full):
                    pixels(acc, total, n, block, o, spec.block)
            if tail:
                with e.when(block == full):
                    pixels(acc, total, n, block, o, tail)
            with e.when(block == 0):
                fill_borders(e, ep.out, views["out"], n, o, spec.pixels)

        with e.loop(x.batch * spec.chunks * blocks, parallel=spec.parallel) as job:
            n, rest = job // (spec.chunks * blocks), job % (spec.chunks * blocks)
            acc: Any = _Bytes(e, spec) if x.dtype == "uint8" else _Floats(e, spec)
            total = [e.local(spec.block * acc.half, "float32") for _ in range(acc.parts)] if spec.segments else []
            with e.loop(per_chunk) as i:
                o = rest // blocks * per_chunk + i
                with e.when(o < spec.rows):
                    rows(acc, total, n, rest % blocks, o)

    return private_function([*arguments, *ep.arguments], body)


def split_levels(weight: TernaryTensor) -> tuple[np.ndarray, np.ndarray]:
    """Codes ``[terms, ...]`` and levels ``[terms, O]``; a term with unequal levels becomes two."""
    full = weight.per_channel
    codes, levels = [], []
    for t, (positive, negative) in enumerate(zip(full.positive, full.negative, strict=True)):
        if np.array_equal(positive, negative):
            codes.append(full.codes[t])
            levels.append(positive)
        else:
            codes += [np.maximum(full.codes[t], 0), np.minimum(full.codes[t], 0)]
            levels += [positive, negative]
    return np.stack(codes), np.stack(levels).astype(np.float32)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes ternary convolutions, and ternary linear layers of many rows as convolutions of one pixel."""
    weight = node.weight if isinstance(node, Windowed | Linear) else None
    if not isinstance(weight, TernaryTensor) or not in_planes(ctx.graph, node):
        return False
    rows = isinstance(node, Linear)
    if rows:
        codes = weight.codes.reshape(*weight.codes.shape, 1, 1, 1)
        weight = TernaryTensor(codes, weight.positive, weight.negative, 0)
    key, window = input_key(ctx.graph, node), window_of(node)
    source, x, quant = ctx.packed(key), ctx.layouts[key], ctx.input_quant(node)
    codes, levels = split_levels(weight)
    single = len(codes) == 1
    level = levels[0].astype(np.float64) if single else np.ones(weight.channels)
    sums = (codes.reshape(*codes.shape[:2], -1).sum(2) * levels).sum(0)
    unit = quant.scale * node.scale
    numbers = ctx.numbers(node, level * unit, node.bias - quant.zero_point * unit * sums)
    full = weight.per_channel
    arrays = {"codes": weight.pack(), "positive": full.positive, "negative": full.negative}
    params = {"shape": list(weight.codes.shape), "window": asdict(window), "x": asdict(x), "limit": taps_limit(x)}
    made = ctx.constants.add(node.name, "taps", arrays, params)
    ep, beside, out = ctx.epilogue(node, rows, x)
    pieces, taps = made["level"].nbytes // 4, made["offsets"].nbytes // 4 - 1
    vector = ctx.target.vector_bytes
    lanes = vector // x.itemsize
    vectors = -(-x.run(ep.size) // lanes)
    block = _block(vectors, vector)
    several = 0 if single and pieces == weight.channels else pieces
    parallel = taps * vectors * lanes > ctx.serial * 16
    spec = Spec(
        x, weight.channels, taps, several, vector, block, _chunks(weight.channels, -(-vectors // block)), parallel, ep
    )
    own = [source, *(made[name] for name in ("offsets", "bounds", "row", "level"))]
    pixels = x.batch * prod(ep.size)
    reason = f"{weight.sparsity():.1%} zeros: adds and subtracts {taps} of {prod(weight.shape)} taps"
    info = {"macs": prod(weight.shape) * pixels, "nonzero_macs": taps * pixels, "bytes_weights": weight.nbytes()}
    ctx.report(node, weight, "sparse", reason)
    ctx.add_planes(node, __name__, spec, own, numbers, beside, out, {**info, "reason": reason})
    return True


def _block(vectors: int, vector: int) -> int:
    """Vectors a pixel block: two accumulators each have to stay in the registers, with room for what is being added."""
    usual, most = {64: (4, 6), 32: (5, 6)}.get(vector, (8, 10))
    return vectors if vectors <= most else usual


def _chunks(rows: int, blocks: int) -> int:
    """Blocks of output channels, so that there are at least 16 jobs for the threads."""
    wanted = max(1, min(rows, -(-16 // blocks)))
    return next(c for c in range(wanted, rows + 1) if rows % c == 0 or c >= 2 * wanted or c == rows)
