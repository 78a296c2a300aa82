"""Dense convolution in halo layout: multiply-add taps, blocked over output channels and pixels in registers.

For layers that stay 8-bit or float: stems, depthwise layers, anything without a ternary weight. 8-bit pixels are
converted as they are read; as float32, products of 8-bit integers add up exactly below 2**24, that is up to 518 taps.
Arm multiplies 16-bit integers into 32-bit sums in one instruction, which spares the conversion; x86 adds two such
products at once.

Bound by multiply-adds: every pixel that is loaded serves a register block of output channels. Pairs of pixels are put
together once for many of these, in a panel that stays in the caches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tvm_schedules.backends.cpu.kernels.common.epilogue import (
    fill_borders,
    fours,
    packs_bytes,
    store_four,
    store_pixels,
    views_of,
)
from tvm_schedules.backends.cpu.kernels.common.short_pairs import PAIR_SUMS
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.lowering.rules.dense_conv import NAME, Spec, lower

__all__ = ["NAME", "Spec", "emit", "lower"]


class _Floats:
    """Sums in float32."""

    taps = 1

    def __init__(self, e: Emitter, spec: Spec) -> None:
        self.e, self.spec, self.type = e, spec, f"float32x{spec.lanes}"
        self.total = e.local(spec.tile * spec.block * spec.lanes, "float32")

    def zero(self, slot: int) -> None:
        self.e.store(self.total, slot * self.spec.lanes, self.e.const(0.0, self.type), self.spec.lanes)

    def factors(self, values: Any, first: Any) -> list[Any]:
        """One tap's weights of all output channels, each in every lane."""
        e = self.e
        return [e.splat(e.load(values, first + i), self.spec.lanes) for i in range(self.spec.tile)]

    def pixels(self, values: list[Any]) -> Any:
        return self.e.cast(values[0], self.type) if self.spec.x.dtype == "uint8" else values[0]

    def add(self, slot: int, value: Any, factor: Any) -> None:
        e, at, lanes = self.e, slot * self.spec.lanes, self.spec.lanes
        old = e.load(self.total, at, lanes)
        e.store(self.total, at, e.fma(value, factor, old) if self.spec.epilogue.fma else old + value * factor, lanes)

    def sum(self, slot: int) -> Any:
        return self.e.load(self.total, slot * self.spec.lanes, self.spec.lanes)


class _Integers:
    """Sums in int32 of products of int16, four lanes at a time: eight pixels are two such parts."""

    taps = 1

    def __init__(self, e: Emitter, spec: Spec) -> None:
        self.e, self.spec = e, spec
        self.total = e.local(spec.tile * spec.block * 8, "int32")

    def zero(self, slot: int) -> None:
        for at in (slot * 8, slot * 8 + 4):
            self.e.store(self.total, at, self.e.const(0, "int32x4"), 4)

    def factors(self, values: Any, first: Any) -> list[Any]:
        """One tap's weights of all output channels, each in every lane; loaded together where that is possible."""
        e, tile = self.e, self.spec.tile
        if tile not in (4, 8):
            return [e.splat(e.load(values, first + i), 4) for i in range(tile)]
        together = e.load(values, first, tile)
        return [e.shuffle([together], [i] * 4) for i in range(tile)]

    def pixels(self, values: list[Any]) -> Any:
        wide = self.e.cast(values[0], "int16x8")
        return [self.e.shuffle([wide], list(range(i, i + 4))) for i in (0, 4)]

    def add(self, slot: int, value: Any, factor: Any) -> None:
        e = self.e
        for at, part in zip((slot * 8, slot * 8 + 4), value, strict=True):
            product = e.intrinsic("int32x4", "llvm.aarch64.neon.smull.v4i32", part, factor)
            e.store(self.total, at, e.load(self.total, at, 4) + product, 4)

    def sum(self, slot: int) -> Any:
        parts = [self.e.load(self.total, at, 4) for at in (slot * 8, slot * 8 + 4)]
        return self.e.cast(self.e.shuffle(parts, list(range(8))), "float32x8")


class _Pairs:
    """Sums in int32 of the products of int16 of two taps, whose pixels stand in turns."""

    taps = 2

    def __init__(self, e: Emitter, spec: Spec) -> None:
        self.e, self.spec, self.type = e, spec, f"int32x{spec.lanes}"
        self.total = e.local(spec.tile * spec.block * spec.lanes, "int32")

    def zero(self, slot: int) -> None:
        self.e.store(self.total, slot * self.spec.lanes, self.e.const(0, self.type), self.spec.lanes)

    def factors(self, values: Any, first: Any) -> list[Any]:
        """The two weights of all output channels, each in every lane."""
        e, lanes = self.e, self.spec.lanes
        pairs = [e.splat(e.load(values, first + i), lanes) for i in range(self.spec.tile)]
        return [e.bits(pair, f"int16x{2 * lanes}") for pair in pairs]

    def pixels(self, values: list[Any]) -> Any:
        lanes = self.spec.lanes
        turns = self.e.shuffle(values, [i + lanes * tap for i in range(lanes) for tap in range(2)])
        return self.e.cast(turns, f"int16x{2 * lanes}")

    def four(self, values: list[Any]) -> list[Any]:
        """Four vectors of pixels in the order of :func:`.common.epilogue.fours`: unpacking leaves parts of 16 bytes."""
        e, count = self.e, 4 * self.spec.lanes
        zero, parts = e.const(0, f"uint8x{count}"), range(0, count, 16)

        def unpacked(first: Any, second: Any, half: int) -> Any:
            order = [part + half + i + count * which for part in parts for i in range(8) for which in range(2)]
            return e.bind(e.shuffle([first, second], order))

        first, second = values
        turns = [unpacked(first, second, half) for half in (0, 8)]
        return [e.bits(unpacked(one, zero, half), f"int16x{count // 2}") for one in turns for half in (0, 8)]

    def add(self, slot: int, value: Any, factor: Any) -> None:
        e, at, lanes = self.e, slot * self.spec.lanes, self.spec.lanes
        products = e.intrinsic(self.type, PAIR_SUMS[lanes], value, factor)
        e.store(self.total, at, e.load(self.total, at, lanes) + products, lanes)

    def sum(self, slot: int) -> Any:
        lanes = self.spec.lanes
        return self.e.cast(self.e.load(self.total, slot * lanes, lanes), f"float32x{lanes}")


KINDS: dict[str, tuple[Any, str]] = {
    "floats": (_Floats, "float32"),
    "integers": (_Integers, "int16"),
    "pairs": (_Pairs, "int32"),
}
"""By how products are added: the code, and the type of the weights."""


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, values, offsets, <epilogue>``."""
    arguments = [("x", spec.x.dtype), ("values", KINDS[spec.sums][1]), ("offsets", "int32")]

    def body(e: Emitter, *pointers: Any) -> None:
        _Code(e, spec, pointers).jobs()

    return kernel_function([*arguments, *spec.epilogue.arguments], body)


class _Code:
    """The code of one function.

    Attributes:
        kind: Class of the sums.
        steps: Taps, or pairs of them, of a group.
        row_blocks: Register blocks of output channels of a group.
        full: Whole blocks of pixels.
        tail: Vectors of the last block, if it is not whole.
        views: Arrays of the epilogue.
    """

    def __init__(self, e: Emitter, spec: Spec, pointers: Any) -> None:
        self.e, self.spec, x, groups = e, spec, spec.x, spec.window.groups
        self.kind, dtype = KINDS[spec.sums]
        self.per_group, self.fan = spec.rows // groups, x.channels // groups
        self.steps = -(-self.fan * int(np.prod(spec.window.kernel)) // self.kind.taps)
        self.row_blocks = -(-self.per_group // spec.tile)
        self.full, self.tail = divmod(spec.pixels // spec.lanes, spec.block)
        self.x = e.view(pointers[0], x.elements + spec.pixels, x.dtype)
        self.values = e.view(pointers[1], groups * self.row_blocks * self.steps * spec.tile, dtype)
        self.offsets = e.view(pointers[2], self.steps * self.kind.taps, "int32")
        self.views = views_of(e, spec.epilogue, list(pointers[3:]), spec.rows, spec.pixels)

    def jobs(self) -> None:
        """All jobs: a block of pixels of a register block of output channels, or of as many as share a panel."""
        e, spec, x = self.e, self.spec, self.spec.x
        blocks, parts = self.full + bool(self.tail), spec.chunks or self.row_blocks
        with e.jobs(x.batch * spec.window.groups * parts * blocks, spec.parallel) as job:
            block, rest = job % blocks, job // blocks
            part, rest = rest % parts, rest // parts
            group, n = rest % spec.window.groups, rest // spec.window.groups
            first = (n * x.channels + group * self.fan) * (x.phases * x.plane) + block * (spec.block * spec.lanes)
            acc = self.kind(e, spec)
            panel = e.scratch(self.steps * spec.block * spec.lanes, "int32") if spec.chunks else None
            whole, last = (spec.block, block < self.full), (self.tail, block == self.full)
            for vectors, holds in (whole, last):
                if vectors and (self.full or vectors == self.tail):
                    with e.when(holds):
                        if panel is None:
                            self._channels(acc, (n, group, block), part, vectors, self._memory(acc, first, vectors))
                        else:
                            self._several(acc, (n, group, block), part, vectors, first, panel)

    def _four(self, vectors: int) -> bool:
        """Whether the next four of so many vectors are unpacked, and packed in the end, together."""
        spec = self.spec
        return spec.sums == "pairs" and vectors >= 4 and packs_bytes(spec.epilogue, spec.lanes)

    def _memory(self, acc: Any, first: Any, vectors: int) -> Callable[[Any], list[Any]]:
        """What reads the pixels of a step, of a block that begins at element ``first``."""
        e, taps, lanes = self.e, self.kind.taps, self.spec.lanes

        def read(t: Any) -> list[Any]:
            at = [e.load(self.offsets, t * taps + tap) + first for tap in range(taps)]
            result: list[Any] = []
            while len(result) < vectors:
                begin = len(result) * lanes
                if self._four(vectors - len(result)):
                    result += acc.four([e.load(self.x, one + begin, 4 * lanes) for one in at])
                else:
                    result.append(acc.pixels([e.load(self.x, one + begin, lanes) for one in at]))
            return result

        return read

    def _several(self, acc: Any, place: tuple[Any, Any, Any], chunk: Any, vectors: int, first: Any, panel: Any) -> None:
        """The output channels of a chunk, which read a panel of pairs of pixels."""
        e, lanes = self.e, self.spec.lanes
        read = self._memory(acc, first, vectors)
        with e.loop(self.steps) as t:
            for v, pixel in enumerate(read(t)):
                e.store(panel, (t * vectors + v) * lanes, e.bits(pixel, f"int32x{lanes}"), lanes)

        def again(t: Any) -> list[Any]:
            loaded = [e.load(panel, (t * vectors + v) * lanes, lanes) for v in range(vectors)]
            return [e.bits(pixel, f"int16x{2 * lanes}") for pixel in loaded]

        share = -(-self.row_blocks // self.spec.chunks)
        with e.loop(share) as i:
            row_block = chunk * share + i
            with e.when(row_block < self.row_blocks):
                self._channels(acc, place, row_block, vectors, again)

    def _channels(
        self,
        acc: Any,
        place: tuple[Any, Any, Any],
        row_block: Any,
        vectors: int,
        pixels: Callable[[Any], list[Any]],
    ) -> None:
        """A register block of output channels: image, group and block of pixels are the ``place``."""
        e, spec, (n, group, block) = self.e, self.spec, place
        for slot in range(spec.tile * vectors):
            acc.zero(slot)
        first = (group * self.row_blocks + row_block) * (self.steps * spec.tile)
        with e.loop(self.steps) as t:
            factors = acc.factors(self.values, first + t * spec.tile)
            # One factor at a time: with all of them beside the sums, 16 registers are one too few.
            pixel = pixels(t)
            for i in range(spec.tile):
                for v in range(vectors):
                    acc.add(i * vectors + v, pixel[v], factors[i])
        start, blocks = block * (spec.block * spec.lanes), self.full + bool(self.tail)
        for i in range(spec.tile):
            inner = row_block * spec.tile + i
            with e.when(inner < self.per_group):
                o = group * self.per_group + inner
                v = 0
                while v < vectors:
                    count = 4 if self._four(vectors - v) else 1
                    sums = [acc.sum(i * vectors + v + k) for k in range(count)]
                    to = (n, o, start + v * spec.lanes)
                    if count == 4:
                        store_four(e, spec.epilogue, self.views, sums, *to, fours(spec.lanes))
                    else:
                        store_pixels(e, spec.epilogue, self.views, sums[0], *to, spec.lanes)
                    v += count
                out = spec.epilogue.out
                fill_borders(e, out, self.views["out"], n, o, spec.pixels, block=block, blocks=blocks)
