"""Ternary convolution of floats as fully unrolled code: the weights are the program, every code an addition.

Lists of offsets (:mod:`.sparse_conv`) load a vector of pixels for every addition, and loads that are not aligned are
what such a kernel waits for. Here as many output channels as there are registers for their sums are computed at once,
and a vector of pixels is loaded once for all of them that need it: of 16 channels with 90 % zeros two need a vector on
average. Which ones is known when code is made, so nothing is left to look up: a load for every tap that any of them
needs, an addition or subtraction for every code that is not zero.

Ten bytes of the library a code instead of its one or two bits, and time to compile, are the price: layers that are
large, or not sparse, keep their lists. The idea of code made for the weights is old in sparse linear algebra; for
networks see Wang, "SparseRT: Accelerating Unstructured Sparsity on GPUs for Deep Learning Inference" (2020).

Bound by additions and, for large layers, by fetching instructions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.cpu.kernels.common.accumulators import Floats
from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, views_of
from tvm_schedules.backends.cpu.kernels.common.pixel_rows import PixelRows
from tvm_schedules.backends.cpu.kernels.common.ternary_rows import TernaryRows
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused
from tvm_schedules.ir.layout import Window

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "as_instructions", "emit", "lower"]

NAME = "straight"
"""What artifacts and tuning databases call this kernel."""

BYTES_PER_CODE = 10
"""Bytes of instructions for a code other than zero, about."""

MOST_DENSITY = 0.25
"""Share of codes other than zero, at most: with more the file would soon be larger than that of a dense network."""

MOST_CODES = 16_000
"""Codes other than zero of a layer, at most: every thousand takes a third of a second to compile."""

MOST_ACCUMULATORS = {64: 24, 32: 16}
"""By bytes of a vector: output channels at once, at most. AVX-512 has 32 registers, AVX2 16."""


@dataclass(frozen=True)
class Spec(PixelRows):
    """All that the code depends on: with the weights.

    Args:
        window: Geometry.
        shape: Shape of the codes, ``[terms, O, C / groups, kd, kh, kw]``.
        codes: Bytes of the codes, int8.
        blocks: Parts of an image, for threads.
    """

    window: Window
    shape: tuple[int, ...]
    codes: bytes = field(repr=False)
    blocks: int

    @property
    def vectors(self) -> int:
        """Vectors an image."""
        return -(-self.x.run(self.epilogue.size) // self.lanes)

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane."""
        return self.vectors * self.lanes

    @property
    def terms(self) -> int:
        """Sums an output channel; each has a level if there are several."""
        return self.shape[0]

    def taps(self, first: int, last: int) -> dict[int, list[tuple[int, int]]]:
        """By offset: which sums of the output channels ``first`` to ``last`` add or subtract the pixels there."""
        codes = np.frombuffer(self.codes, np.int8).reshape(*self.shape[:3], -1)
        table = [self.x.offset(0, phase, shift) for phase, shift in self.window.taps()]
        found: dict[int, list[tuple[int, int]]] = {}
        for o in range(first, last):
            channel = o * self.window.groups // self.rows * self.shape[2]
            for t, c, k in np.argwhere(codes[:, o]):
                offset = int((channel + c) * self.x.phases * self.x.plane + table[k])
                found.setdefault(offset, []).append(((o - first) * self.terms + int(t), int(codes[t, o, c, k])))
        return dict(sorted(found.items()))


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, level, <epilogue>``."""
    ep, x, lanes, terms = spec.epilogue, spec.x, spec.lanes, spec.terms
    share = -(-spec.rows // spec.chunks)
    room = x.elements + spec.pixels

    def body(e: Emitter, *pointers: Any) -> None:
        bx, level = e.view(pointers[0], room, x.dtype), e.view(pointers[1], terms * spec.rows, "float32")
        views = views_of(e, ep, list(pointers[2:]), spec.rows, spec.pixels)

        def total(sums: Floats, first: int, o: int) -> Any:
            parts = [sums.values(((o - first) * terms + t) * lanes, lanes)[0] for t in range(terms)]
            if terms == 1:
                return parts[0]
            levels = [e.splat(e.load(level, t * spec.rows + o), lanes) for t in range(terms)]
            value = parts[0] * levels[0]
            for part, factor in zip(parts[1:], levels[1:], strict=True):
                value = e.fma(part, factor, value) if ep.fma else value + part * factor
            return value

        def channels(n: Any, v: Any, first: int, last: int) -> None:
            near = e.part(bx, n * (x.channels * x.phases * x.plane) + v * lanes, room, x.dtype)
            sums = Floats(e, spec, (last - first) * terms)
            begun: set[int] = set()
            for offset, users in spec.taps(first, last).items():
                pixels = e.load(near, offset, lanes)
                for place, code in users:
                    if place not in begun and code > 0:
                        sums.begin(place * lanes, lanes, pixels)
                    else:
                        if place not in begun:
                            sums.zero(place * lanes, lanes)
                        sums.add(place * lanes, lanes, pixels, code)
                    begun.add(place)
            for place in set(range((last - first) * terms)) - begun:
                sums.zero(place * lanes, lanes)
            for o in range(first, last):
                sums.store(ep, views, [total(sums, first, o)], n, e.integer(o), v * lanes, lanes)

        jobs = spec.blocks * spec.chunks
        with e.jobs(x.batch * jobs, spec.parallel) as job:
            n, block, chunk = job // jobs, job % jobs // spec.chunks, job % spec.chunks
            begin = block * spec.vectors // spec.blocks
            count = (block + 1) * spec.vectors // spec.blocks - begin
            for k in range(spec.chunks):
                first, last = k * share, min((k + 1) * share, spec.rows)
                with e.when(chunk == k):
                    with e.loop(count) as v:
                        channels(n, begin + v, first, last)
                    where = {"planes": last - first, "block": block, "blocks": spec.blocks}
                    fill_borders(e, ep.out, views["out"], n, first, spec.pixels, **where)

    return kernel_function([("x", x.dtype), ("level", "float32"), *ep.arguments], body)


def as_instructions(ctx: Lowering, layer: TernaryRows) -> bool:
    """Whether a layer of floats has few enough codes that are not zero, and the CPU is one of those it was made for."""
    x86 = ctx.target.architecture == "x86_64" and ctx.target.vector_bytes in MOST_ACCUMULATORS
    return x86 and layer.taps <= min(MOST_CODES, MOST_DENSITY * layer.dense)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes ternary layers over floats with few codes that are not zero."""
    layer = TernaryRows.take(ctx, node, 0, floats=True)
    vector = ctx.target.vector_bytes
    if layer is None or not as_instructions(ctx, layer) or not ctx.configs.selects(node.name, NAME, True):
        return False
    x, rows, lanes = layer.x, layer.weight.channels, vector // layer.x.itemsize
    vectors = -(-x.run(layer.window.output(x.dims)) // lanes)
    codes = layer.codes.astype(np.int8)
    chunks, knob = -(-rows * len(codes) // MOST_ACCUMULATORS[vector]), ctx.configs.knob
    # As many for one thread as for another.
    chunks = min(rows, chunks + (chunks > 1 and chunks % 2))
    chunks = knob(node.name, "chunks", chunks, [n for n in (chunks // 2, chunks * 3 // 2) if 1 <= n <= rows])
    chunks = -(-rows // -(-rows // chunks))  # none without channels
    blocks = min(8, vectors // 16 * 2) or min(vectors, 1 if chunks > 1 else 2)
    blocks = knob(node.name, "blocks", blocks, [n for n in (1, 2, 4, 8) if n <= vectors])
    source = ctx.packed(layer.key)
    end = ctx.destination(node, layer.linear, x)
    parallel = layer.taps * vectors * lanes > ctx.serial * 16
    held = codes.tobytes()
    spec = Spec(x, rows, 0, vector, 1, chunks, parallel, end.epilogue, layer.window, codes.shape, held, blocks)
    levels = np.ones_like(layer.levels) if layer.single else layer.levels
    level = ctx.constants.add(node.name, "raw", {"level": levels})["level"]
    size = layer.taps * BYTES_PER_CODE
    reason = f"{layer.weight.sparsity():.1%} zeros: {layer.taps} of {layer.dense} taps are instructions, {size} bytes"
    layer.finish(NAME, spec, [source, level], layer.numbers(), end, reason, size)
    return True
