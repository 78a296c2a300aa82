"""Offset-sparse ternary convolution of several output channels at once: taps are added up before channels share them.

As :mod:`.sparse_conv`, but two to four output channels are one group. At every tap their codes make a pattern, and the
pixels of all taps of one pattern are added up first, for they enter the channels in the same way: a pixel is loaded and
added once for the whole group, and a list's sum once for every channel that has it. Channels that share the places of
their zeros have the fewest patterns (8 lists of four), and every tap stands for as many weights as the group has
channels; of others a tap stands for those codes that are not zero there. There is no multiplication, and no branch
but those at the ends of lists.

A row of several terms or of two levels is one of several segments, which are added up in float32.

Applies to ternary layers in planes, of 8-bit or float inputs; of a grouped convolution, channels of one group share.
Bound by loads, of which most cross a cache line, and for short lists by the branches at their ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.cpu.kernels.common.accumulators import accumulators_of
from tvm_schedules.backends.cpu.kernels.common.dot_product import available
from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, views_of
from tvm_schedules.backends.cpu.kernels.common.pixel_rows import Parts, PixelRows
from tvm_schedules.backends.cpu.kernels.common.ternary_rows import TernaryRows
from tvm_schedules.backends.cpu.kernels.sparse_conv_unrolled import as_instructions
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused
from tvm_schedules.lowering.rules.sparse_conv import row_chunks, row_splits
from tvm_schedules.packing import pattern_lists
from tvm_schedules.packing.tap_lists import signs_apart, taps_limit

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "patterns"
"""What artifacts and tuning databases call this kernel."""

SIZES = (2, 3, 4)
"""Output channels a group."""

LIST = {32: 6.0}
"""What the end of a list costs, in taps of one vector, by the bytes of a vector (measured on Zen 3)."""

LIST_UNKNOWN = 16.0
"""The same where it was not measured: the CPU seldom foresees the end."""

NARROW = {1: 1.7, 2: 1.1}
"""How many times as long a tap takes in blocks of so few vectors of pixels (measured on Zen 3)."""

LIST_BLOCK = 5
"""Vectors for which the list kernel reads a list once."""

PANEL = 1.5
"""How much faster taps are in panels, whose loads are aligned, where vectors are a cache line."""

STRAIGHT = {32: 0.6, 64: 0.4}
"""By bytes of a vector, what a code of floats takes that is an instruction, see :mod:`.sparse_conv_unrolled`.

Measured on Zen 3 as 0.5 to 0.9; with vectors that are a cache line every tap here crosses one, so it is taken to be
less there.
"""

FLOAT_BLOCK = 5
"""Vectors of floats a block: with the sums of four channels they leave few of 32 registers, and 16 were enough."""

LOW = 15
"""Activations up to here have a kernel of their own, which adds most of them up in bytes."""


@dataclass(frozen=True)
class Spec(PixelRows):
    """All that the code depends on.

    Args:
        size: Output channels a group.
        patterns: The patterns that there are lists of, see :mod:`tvm_schedules.packing.pattern_lists`.
        taps: Offsets in all.
        index: Type of the offsets.
        widen: Whether the CPU adds bytes to 16-bit lanes in one instruction (Arm's UADDW).
        levels: Whether segments have levels of their own.
    """

    size: int
    patterns: tuple[int, ...]
    taps: int
    index: str
    widen: bool
    levels: bool

    @property
    def groups(self) -> int:
        """Groups of output channels, the last of which may lack some."""
        return -(-self.rows // self.size)

    @property
    def lists(self) -> tuple[tuple[str, str, int], ...]:
        """Name, type and elements of the arrays of :mod:`tvm_schedules.packing.pattern_lists`."""
        segments = max(self.segments, self.groups)
        return (
            ("offsets", self.index, self.taps + 2 * segments * len(self.patterns)),
            ("starts", "int32", segments),
            ("first", "int32", self.groups + 1),
            ("members", "int32", self.groups * self.size),
            *([("levels", "float32", segments * self.size)] if self.levels else []),
        )


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, offsets, starts, first, members, [levels,] <epilogue>``."""
    arguments = [("x", spec.x.dtype), *((name, dtype) for name, dtype, _ in spec.lists)]

    def body(e: Emitter, *pointers: Any) -> None:
        _Code(e, spec, pointers).jobs()

    return kernel_function([*arguments, *spec.epilogue.arguments], body)


class _Code:
    """The code of one function.

    Attributes:
        kind: Class of the accumulators.
        views: Arrays of the epilogue.
        levels: Levels of a segment's channels, None where all are 1.
    """

    def __init__(self, e: Emitter, spec: Spec, pointers: Sequence[Any]) -> None:
        self.e, self.spec = e, spec
        self.kind: Any = accumulators_of(spec.x.dtype, spec.widen)
        self.room = spec.x.elements + spec.pixels
        self.x = e.view(pointers[0], self.room, spec.x.dtype)
        behind = 1 + len(spec.lists)
        lists = [e.view(p, n, t) for p, (_, t, n) in zip(pointers[1:behind], spec.lists, strict=True)]
        self.offsets, self.starts, self.first, self.members = lists[:4]
        self.levels = lists[4] if spec.levels else None
        self.views = views_of(e, spec.epilogue, list(pointers[behind:]), spec.rows, spec.pixels)

    def jobs(self) -> None:
        """All jobs: a block of pixels and some groups of output channels each."""
        e, spec = self.e, self.spec
        full, tail = spec.widths
        blocks, share = full + bool(tail), -(-spec.groups // spec.chunks)
        with e.jobs(spec.x.batch * spec.chunks * blocks, spec.parallel) as job:
            n, rest = job // (spec.chunks * blocks), job % (spec.chunks * blocks)
            block, chunk = rest // spec.chunks, rest % spec.chunks
            memory = self._memory()
            with e.loop(share) as i:
                group = chunk * share + i
                with e.when(group < spec.groups):
                    if full:
                        with e.when(block < full):
                            self._block(n, block, group, [spec.lanes] * spec.block, memory)
                    if tail:
                        with e.when(block == full):
                            self._block(n, block, group, tail, memory)
                    with self._channels(group) as (_, o):
                        out, where = spec.epilogue.out, {"block": block, "blocks": blocks}
                        fill_borders(e, out, self.views["out"], n, o, spec.pixels, **where)

    def _memory(self) -> tuple[list[Any], list[Any]]:
        """Memory of a job: sums of a group's channels, and their totals in float32 where 16 bits do not hold all."""
        e, spec, kind = self.e, self.spec, self.kind
        size = spec.size * spec.step
        sums = [e.scratch(size // len(kind.memory), dtype) for dtype in kind.memory]
        totals = [e.scratch(size // kind.parts, "float32") for _ in range(kind.parts if spec.segments else 0)]
        return sums, totals

    @contextmanager
    def _channels(self, group: Any) -> Iterator[tuple[Any, Any]]:
        """A loop over the output channels of a group: place in the group, and channel."""
        e, spec = self.e, self.spec
        with e.loop(e.min(e.expr(spec.size), e.expr(spec.rows) - group * spec.size)) as k:
            yield k, e.load(self.members, group * spec.size + k)

    def _block(self, n: Any, index: Any, group: Any, widths: list[int], memory: tuple[list[Any], list[Any]]) -> None:
        """Computes a block of pixels, of vectors of these widths, in a group of output channels."""
        e, spec, (sums, totals) = self.e, self.spec, memory
        start, x = index * spec.step, spec.x
        near = e.part(self.x, start + n * (x.channels * x.phases * x.plane), self.room, x.dtype)
        parts = [(sum(widths[:v]), width) for v, width in enumerate(widths)]
        if totals:
            first = e.load(self.first, group)
            with e.loop(e.load(self.first, group + 1) - first) as s:
                self._segment(near, first + s, parts, sums)
                self._add_up(parts, sums, totals, s, first + s)
        else:
            self._segment(near, group, parts, sums)
        acc = self.kind(e, spec)
        with self._channels(group) as (k, o):
            for at, width in parts:
                if totals:
                    place, lanes = self._place(k, at, width)
                    values = [e.load(total, place, lanes) for total in totals]
                else:
                    acc.recall(sums, k, at, width)
                    values = acc.values(at, width)
                acc.store(spec.epilogue, self.views, values, n, o, start + at, width)

    def _place(self, k: Any, at: int, width: int) -> tuple[Any, int]:
        """Where the totals of a vector of channel ``k`` of a group are, and how many."""
        parts = self.kind.parts
        return (k * self.spec.step + at) // parts, width // parts

    def _add_up(self, parts: Parts, sums: list[Any], totals: list[Any], turn: Any, segment: Any) -> None:
        """Adds the sums of a segment, times their levels, to the totals, which begin with those of the first turn."""
        e, spec, acc = self.e, self.spec, self.kind(self.e, self.spec)
        with e.loop(spec.size) as k:
            for at, width in parts:
                place, lanes = self._place(k, at, width)
                acc.recall(sums, k, at, width)
                values = acc.values(at, width)
                if self.levels is not None:
                    level = e.splat(e.load(self.levels, segment * spec.size + k), lanes)
                    values = [value * level for value in values]
                with e.when(turn == 0):
                    for total, value in zip(totals, values, strict=True):
                        e.store(total, place, value, lanes)
                with e.when(turn > 0):
                    for total, value in zip(totals, values, strict=True):
                        e.store(total, place, e.load(total, place, lanes) + value, lanes)

    def _segment(self, near: Any, segment: Any, parts: Parts, sums: list[Any]) -> None:
        """Leaves the sums of all channels of a group in memory.

        Args:
            near: The pixels, from the block's first one on.
            segment: Which lists.
            parts: The vectors of the block.
            sums: Where to put them.
        """
        e, spec, kind = self.e, self.spec, self.kind
        channels, own = [kind(e, spec) for _ in range(spec.size)], kind(e, spec)
        for acc in channels:
            for at, width in parts:
                acc.zero(at, width)
        place = e.local(1, "int32")
        e.store(place, 0, e.load(self.starts, segment))
        for pattern in spec.patterns:
            begin = e.bind(e.load(place, 0))
            for at, width in parts:
                own.zero(at, width)
            for sign in (+1, -1):
                self._taps(near, own, place, sign, parts)
            with e.when(e.load(place, 0) > begin + 2):
                for acc, code in zip(channels, pattern_lists.digits(pattern, spec.size), strict=True):
                    if code:
                        for at, width in parts:
                            acc.join(own, at, width, code)
        for k, acc in enumerate(channels):
            for at, width in parts:
                acc.save(sums, e.integer(k), at, width)

    def _taps(self, near: Any, acc: Any, place: Any, sign: int, parts: Parts) -> None:
        """Adds up the list that begins at a place, or takes it away, and moves the place behind its end."""
        e, word = self.e, self.e.local(1, "int32")
        end = e.expr(pattern_lists.END[self.spec.index])

        def read() -> None:
            at = e.load(place, 0)
            e.store(word, 0, e.cast(e.load(self.offsets, at), "int32"))
            e.store(place, 0, at + 1)

        read()
        with e.whilst(e.load(word, 0) != end):
            where = e.bind(e.load(word, 0))
            for at, width in parts:
                acc.add(at, width, e.load(near, where + at, width), sign)
            read()


def _time(
    layer: TernaryRows, codes: np.ndarray, size: int, blocks: Sequence[int], end: float, narrow: Mapping[int, float]
) -> float:
    """Time of a layer with so many channels a group, in taps of the list kernel, a vector of pixels.

    Args:
        layer: The layer.
        codes: Its codes, [terms, output channels, inputs].
        size: Channels a group.
        blocks: Vectors of every block: lists are read once for each of them.
        end: What the end of a list costs, in taps of one vector.
        narrow: How many times as long a tap takes in blocks of so few vectors.
    """
    limit = taps_limit(layer.x, layer.quant.top)
    work = pattern_lists.work(codes, pattern_lists.members(np.abs(codes).max(0), size, layer.window.groups), limit)
    times = [width * (narrow.get(width, 1.0) * work.taps + work.joins) + end * work.lists for width in blocks]
    return sum(times) / sum(blocks)


def _others_time(ctx: Lowering, layer: TernaryRows, vectors: int, end: float) -> float:
    """Time of the fastest other kernel, in the same unit."""
    terms = 1 if signs_apart(layer.codes) else len(layer.codes)
    lists, vector = 2 * terms * layer.weight.channels, ctx.target.vector_bytes
    sparse = (layer.taps + end / max(vectors, LIST_BLOCK) * lists) / (PANEL if vector == 64 else 1.0)
    if layer.x.dtype == "float32":
        return min(sparse, STRAIGHT[vector] * layer.taps) if as_instructions(ctx, layer) else sparse
    dot = available(ctx.target)
    return sparse if dot is None else min(sparse, layer.dense / dot.advantage)


def _usual_block(vector: int, size: int, floats: bool) -> int:
    """Vectors a block, as many as leave the sums of a list in registers and lists short in the cache (measured)."""
    if floats:
        return FLOAT_BLOCK
    return 3 if vector != 32 or size == 2 else 2


def _sizes(layer: TernaryRows) -> list[int]:
    """Output channels a group may have: of a grouped convolution, a whole number of groups in each of its groups."""
    parts = layer.window.groups
    return [size for size in SIZES if parts == 1 or layer.weight.channels // parts % size == 0]


def _blocks(vectors: int, block: int) -> list[int]:
    """Vectors of every block of a plane."""
    return [block] * (vectors // block) + [vectors % block] * (vectors % block > 0)


def _choice(ctx: Lowering, layer: TernaryRows, codes: np.ndarray, vectors: int) -> tuple[int, bool]:
    """Output channels a group, and whether the kernel is then faster than others."""
    vector, floats = ctx.target.vector_bytes, layer.x.dtype == "float32"
    end, narrow = (LIST[vector], NARROW) if vector in LIST else (LIST_UNKNOWN, {})
    blocks = {size: _blocks(vectors, min(vectors, _usual_block(vector, size, floats))) for size in _sizes(layer)}
    times = {size: _time(layer, codes, size, widths, end, narrow) for size, widths in blocks.items()}
    size = min(times, key=lambda one: times[one])
    return size, times[size] < _others_time(ctx, layer, vectors, end)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes ternary convolutions whose output channels have many taps in common."""
    layer = TernaryRows.take(ctx, node, 8, floats=True)
    if layer is None or layer.weight.channels < 2 or not layer.taps or not _sizes(layer):
        return False
    floats = layer.x.dtype == "float32"
    if not floats and layer.quant.top <= LOW and not ctx.configs.selects(node.name, NAME, False):
        return False
    x, rows, vector, knob = layer.x, layer.weight.channels, ctx.target.vector_bytes, ctx.configs.knob
    codes = layer.codes.reshape(len(layer.codes), rows, -1)
    lanes = vector // x.itemsize
    vectors = -(-x.run(layer.window.output(x.dims)) // lanes)
    usual, pays = _choice(ctx, layer, codes, vectors)
    if not ctx.configs.selects(node.name, NAME, pays):
        return False
    size = knob(node.name, "size", usual, _sizes(layer))
    size = size if size in _sizes(layer) else usual
    patterns = pattern_lists.used(codes, pattern_lists.members(np.abs(codes).max(0), size, layer.window.groups))
    index = "uint16" if x.channels * x.phases * x.plane < 1 << 16 else "int32"
    source, limit = ctx.packed(layer.key), taps_limit(x, layer.quant.top)
    made = layer.constants("patterns", x, size=size, limit=limit, index=index)
    end = ctx.destination(node, layer.linear, x, ctx.sum_unit(x))
    segments, groups = made["starts"].nbytes // 4, -(-rows // size)
    taps = made["offsets"].nbytes // np.dtype(index).itemsize - 2 * segments * len(patterns)
    block = knob(node.name, "block", min(vectors, _usual_block(vector, size, floats)), range(1, min(vectors, 6) + 1))
    chunks = knob(node.name, "chunks", row_chunks(groups, -(-vectors // block)), row_splits(groups))
    spec = Spec(
        x,
        rows,
        segments if segments > groups or "levels" in made else 0,
        vector,
        block,
        chunks,
        taps * vectors * lanes > ctx.serial * 16,
        end.epilogue,
        size=size,
        patterns=patterns,
        taps=taps,
        index=index,
        widen=ctx.target.arm64,
        levels="levels" in made,
    )
    own = [source, *(made[name] for name, _, _ in spec.lists)]
    together = f"{size} channels at a time add {taps} pixels for {layer.taps} of {layer.dense} taps"
    layer.finish(NAME, spec, own, layer.numbers(), end, f"{layer.weight.sparsity():.1%} zeros: {together}")
    return True
