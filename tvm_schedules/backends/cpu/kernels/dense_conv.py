"""Dense convolution in halo layout: multiply-add taps, blocked over output channels and pixels in registers.

For layers that stay 8-bit or float: stems, depthwise layers, anything without a ternary weight. 8-bit pixels are
converted as they are read; as float32, products of 8-bit integers add up exactly below 2**24, that is up to 518 taps.
Arm multiplies 16-bit integers into 32-bit sums in one instruction, which spares the conversion; x86 adds two such
products at once.

Bound by multiply-adds: every pixel that is loaded serves a register block of output channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, store_pixels, views_of
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
    ep, x, window, tile = spec.epilogue, spec.x, spec.window, spec.tile
    lanes = spec.lanes
    kind, dtype = KINDS[spec.sums]
    per_group, fan = spec.rows // window.groups, x.channels // window.groups
    steps = -(-fan * int(np.prod(window.kernel)) // kind.taps)
    row_blocks = -(-per_group // tile)
    full, tail = divmod(spec.pixels // lanes, spec.block)
    blocks = full + bool(tail)
    image = x.channels * x.phases * x.plane

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], x.elements + spec.pixels, x.dtype)
        values = e.view(pointers[1], window.groups * row_blocks * steps * tile, dtype)
        offsets = e.view(pointers[2], steps * kind.taps, "int32")
        views = views_of(e, ep, list(pointers[3:]), spec.rows, spec.pixels)

        def pixels(acc: Any, n: Any, block: Any, group: Any, row_block: Any, vectors: int) -> None:
            start = block * (spec.block * lanes)
            base = n * image + group * (fan * x.phases * x.plane) + start
            for slot in range(tile * vectors):
                acc.zero(slot)
            first = (group * row_blocks + row_block) * (steps * tile)
            with e.loop(steps) as t:
                at = [e.load(offsets, t * kind.taps + tap) + base for tap in range(kind.taps)]
                factors = acc.factors(values, first + t * tile)
                # One factor at a time: with all of them beside the sums, 16 registers are one too few.
                pixel = [acc.pixels([e.load(bx, one + v * lanes, lanes) for one in at]) for v in range(vectors)]
                for i in range(tile):
                    for v in range(vectors):
                        acc.add(i * vectors + v, pixel[v], factors[i])
            for i in range(tile):
                inner = row_block * tile + i
                with e.when(inner < per_group):
                    o = group * per_group + inner
                    for v in range(vectors):
                        store_pixels(e, ep, views, acc.sum(i * vectors + v), n, o, start + v * lanes, lanes)
                    fill_borders(e, ep.out, views["out"], n, o, spec.pixels, block=block, blocks=blocks)

        with e.jobs(x.batch * window.groups * row_blocks * blocks, spec.parallel) as job:
            block, rest = job % blocks, job // blocks
            row_block, rest = rest % row_blocks, rest // row_blocks
            group, n = rest % window.groups, rest // window.groups
            acc = kind(e, spec)
            if full:
                with e.when(block < full):
                    pixels(acc, n, block, group, row_block, spec.block)
            if tail:
                with e.when(block == full):
                    pixels(acc, n, block, group, row_block, tail)

    return kernel_function([("x", x.dtype), ("values", dtype), ("offsets", "int32"), *ep.arguments], body)
