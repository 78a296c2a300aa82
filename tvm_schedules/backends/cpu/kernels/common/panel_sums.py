"""The code of ternary convolutions over panels: panel after panel, and all output channels of one before the next.

:mod:`tvm_schedules.backends.cpu.kernels.sparse_conv_panel` says what a panel is and which layers have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm_schedules.backends.cpu.kernels.common.accumulators import Bytes, Floats, SevenOfEight
from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, views_of
from tvm_schedules.backends.cpu.kernels.common.panel_copies import Copies, RowInterleaving
from tvm_schedules.backends.cpu.kernels.common.pixel_rows import PixelRows
from tvm_schedules.compat import Emitter
from tvm_schedules.ir.layout import ALIGN

__all__ = ["Code", "Spec"]

TAPS_AHEAD = 1024
"""How many taps ahead a list is fetched."""


@dataclass(frozen=True)
class Spec(PixelRows):
    """All that the code depends on.

    Args:
        taps: Taps in all, and the zeros that fill lists up.
        copies: For one input channel, what goes into the panel.
        interleaving: How rows are interleaved over the vectors, if they are.
        seven_of_eight: Whether every eighth byte does not matter.
        halves: Whether the middle one of the blocks is two jobs, of half the output channels each: of an odd number of
            blocks two threads have the same work then.
        channels: Input channels a panel.
        groups: Runs of panels whose sums fit 16 bits.
        unroll: Taps in the body of a loop.
        once: Taps whose pixels a byte holds the sum of.
    """

    taps: int
    copies: Copies
    interleaving: RowInterleaving | None
    seven_of_eight: bool
    halves: bool
    channels: int
    groups: int
    unroll: int
    once: int

    @property
    def step(self) -> int:
        """Pixels a block."""
        return self.interleaving.step(self.lanes) if self.interleaving else self.block * self.lanes

    @property
    def panels(self) -> int:
        """Panels one after the other."""
        return -(-self.x.channels // self.channels)

    @property
    def share(self) -> int:
        """Output channels that a job may be about."""
        return -(-self.rows // (2 if self.halves else self.chunks))

    @property
    def lists(self) -> tuple[tuple[str, str, int], ...]:
        """Name, type and elements of the arrays of :mod:`tvm_schedules.packing.panel_lists`."""
        return (
            ("offsets", "uint16", self.taps + 1),
            ("bounds", "int32", 2 * self.panels * self.rows + 1),
            ("order", "uint16", self.panels * self.rows),
            ("groups", "int32", self.groups + 1),
        )

    @property
    def most(self) -> int:
        """Output channels that a job is about at most."""
        return self.rows if self.halves else self.share


@dataclass(frozen=True)
class _Memory:
    """Memory of a job.

    Args:
        panel: Pixels of some input channels, and zeros behind them.
        waiting: Accumulators of all output channels between two panels.
        total: Their sums in float32, where 16 bits do not hold those of all panels.
    """

    panel: Any
    waiting: list[Any]
    total: list[Any]


@dataclass(frozen=True)
class _Block:
    """A block of output pixels in some output channels.

    Args:
        n: Image.
        index: Which block of the image.
        begin: First output channel.
        count: Output channels.
        ends: Start, counted from the block's first pixel, and width of the vectors that are written.
    """

    n: Any
    index: Any
    begin: Any
    count: Any
    ends: list[tuple[int, int]]


class Code:
    """The code of one function.

    Attributes:
        kind: Class of the accumulators.
        x: The image.
        views: Arrays of the epilogue.
    """

    def __init__(self, e: Emitter, spec: Spec, pointers: Sequence[Any]) -> None:
        self.e, self.spec, x = e, spec, spec.x
        self.kind = Floats if x.dtype == "float32" else SevenOfEight if spec.seven_of_eight else Bytes
        self.x = e.view(pointers[0], x.elements + spec.pixels, x.dtype)
        lists = (e.view(p, n, t) for p, (_, t, n) in zip(pointers[1:5], spec.lists, strict=True))
        self.offsets, self.bounds, self.order, self.groups = lists
        self.views = views_of(e, spec.epilogue, list(pointers[5:]), spec.rows, spec.pixels)

    def jobs(self) -> None:
        """All jobs: a block of pixels and some output channels each."""
        e, spec, lanes = self.e, self.spec, self.spec.lanes
        full, tail = spec.widths
        blocks, shares = full + bool(tail), -(-spec.rows // spec.share)
        jobs = blocks + 1 if spec.halves else shares * blocks
        with e.jobs(spec.x.batch * jobs, spec.parallel) as job:
            n, rest = job // jobs, job % jobs
            if spec.halves:
                middle = blocks // 2
                index = e.select(rest > middle, rest - 1, rest)
                begin = e.select(rest == middle + 1, e.expr(spec.share), e.expr(0))
                end = e.select(rest == middle, e.expr(spec.share), e.expr(spec.rows))
            else:
                index, begin = rest // shares, rest % shares * spec.share
                end = e.min(begin + spec.share, e.expr(spec.rows))
            count = end - begin
            memory = self._memory()
            if full:
                with e.when(index < full):
                    whole = range(0, spec.step, lanes)
                    # The next block is another job: the last vector must not reach into it.
                    ends = [(min(at, spec.step - lanes), lanes) for at in whole]
                    self._block(_Block(n, index, begin, count, ends), memory)
            if tail:
                with e.when(index == full):
                    ends = [(sum(tail[:v]), width) for v, width in enumerate(tail)]
                    self._block(_Block(n, index, begin, count, ends), memory)
            out, where = spec.epilogue.out, {"planes": count, "block": index, "blocks": blocks}
            fill_borders(e, out, self.views["out"], n, begin, spec.pixels, **where)

    def _memory(self) -> _Memory:
        """Allocates a job's memory; what fills lists up reads the zeros behind the panel."""
        e, spec, kind = self.e, self.spec, self.kind
        zeros, size = spec.channels * spec.copies.channel, spec.block * spec.lanes
        panel = e.scratch(zeros + size, spec.x.dtype)
        for at in range(0, size, spec.lanes):
            e.store(panel, zeros + at, e.const(0, f"{spec.x.dtype}x{spec.lanes}"), spec.lanes)
        each = spec.most * size // len(kind.memory)
        waiting = [e.scratch(each, dtype) for dtype in kind.memory] if spec.panels > 1 else []
        parts = kind.parts if spec.groups > 1 else 0
        total = [e.scratch(spec.most * size // kind.parts, "float32") for _ in range(parts)]
        return _Memory(panel, waiting, total)

    def _block(self, block: _Block, memory: _Memory) -> None:
        """Computes a block: panel after panel, and all output channels of a panel before the next one."""
        e, spec = self.e, self.spec
        acc = self.kind(e, spec)
        start, reach = block.index * spec.step, len(block.ends) * spec.lanes
        with e.loop(spec.groups) as group:
            first = e.load(self.groups, group)
            last = e.load(self.groups, group + 1)
            with e.loop(last - first) as k:
                self._pack(memory.panel, block.n, (first + k) * spec.channels, start, reach)
                with e.loop(block.count) as turn:
                    place = (first + k) * spec.rows + block.begin + turn
                    o = e.cast(e.load(self.order, place), "int32")
                    self._row(acc, block, memory, o, place, (k, last - first))
                    with e.when(k == last - first - 1):
                        self._finish(acc, block, memory.total, group, o)

    def _pack(self, panel: Any, n: Any, first: Any, start: Any, reach: int) -> None:
        """Copies what a block of ``reach`` pixels reads of the panel's channels, from channel ``first`` on."""
        e, spec, x, lanes = self.e, self.spec, self.spec.x, self.spec.lanes
        count = e.min(e.expr(spec.channels), e.expr(x.channels) - first)
        with e.loop(count) as c:
            begin = (n * x.channels + first + c) * (x.phases * x.plane) + start
            source = e.part(self.x, begin, x.elements + spec.pixels, x.dtype)
            for place, (sources, least) in enumerate(spec.copies.vectors):
                if reach > least:
                    parts = [e.load(source, at, lanes // len(sources)) for at in sources]
                    order = spec.copies.order or range(lanes)
                    pixels = parts[0] if len(parts) == 1 and not spec.copies.order else e.shuffle(parts, list(order))
                    e.store(panel, c * spec.copies.channel + place * lanes, pixels, lanes)

    def _row(self, acc: Any, block: _Block, memory: _Memory, o: Any, place: Any, turn: tuple[Any, Any]) -> None:
        """Adds a panel's taps to the accumulators of output channel ``o``, which wait in memory between panels.

        Args:
            acc: The accumulators.
            block: The block of pixels.
            memory: The job's memory.
            o: Output channel.
            place: Which list of taps.
            turn: Which panel of its group it is, and how many there are.
        """
        e, spec, (k, panels) = self.e, self.spec, turn
        parts = [(v * spec.lanes, spec.lanes) for v in range(spec.block)] if spec.interleaving else block.ends
        with e.when(k == 0):
            for at, width in parts:
                acc.zero(at, width)
        if memory.waiting:
            with e.when(k > 0):
                for at, width in parts:
                    acc.recall(memory.waiting, o - block.begin, at, width)
        self._taps(acc, memory.panel, place * 2, parts)
        if memory.waiting:
            with e.when(k < panels - 1):
                for at, width in parts:
                    acc.save(memory.waiting, o - block.begin, at, width)

    def _taps(self, acc: Any, panel: Any, run: Any, parts: list[tuple[int, int]]) -> None:
        """Adds up one list of taps, its additions and then its subtractions."""
        e, spec = self.e, self.spec
        mean = spec.taps // (2 * spec.panels * spec.rows)
        for sign, index in ((+1, 0), (-1, 1)):
            first, last = (e.load(self.bounds, run + index + i) for i in range(2))
            for line in range(-(-mean * 2 // ALIGN)):
                e.prefetch(self.offsets, first * spec.unroll + TAPS_AHEAD + line * (ALIGN // 2))
            with e.loop(last - first) as j:
                places = self._round((first + j) * spec.unroll)
                for u in range(0, spec.unroll, spec.once):
                    for at, width in parts:
                        read = [e.load(panel, place + at, width) for place in places[u : u + spec.once]]
                        acc.add(at, width, sum(read[1:], read[0]), sign)

    def _round(self, begin: Any) -> list[Any]:
        """The offsets of a round. Up to four are one load: those of pixels are as many as the CPU can do."""
        e, found = self.e, []
        size = min(4, self.spec.unroll)
        word = f"uint{16 * size}"
        for u in range(0, self.spec.unroll, size):
            packed = e.bits(e.load(self.offsets, begin + u, size), word)
            for k in range(size):
                found.append(e.cast((packed >> e.const(16 * k, word)) & e.const(65535, word), "int32"))
        return found

    def _finish(self, acc: Any, block: _Block, total: list[Any], group: Any, o: Any) -> None:
        """What follows the last panel of a group: the epilogue, or sums in float32 before that."""
        e, spec, lanes, parts = self.e, self.spec, self.spec.lanes, self.kind.parts
        start, row = block.index * spec.step, (o - block.begin) * (spec.block * lanes)
        if how := spec.interleaving:
            acc = acc.rearranged([[how.source(at + p, lanes) for p in range(lanes)] for at, _ in block.ends])
        for v, (begin, width) in enumerate(block.ends):
            values, at = acc.values(v * lanes, width), (row + v * lanes) // parts
            if not total:
                acc.store(spec.epilogue, self.views, values, block.n, o, start + begin, width)
                continue
            with e.when(group == 0):
                for whole, value in zip(total, values, strict=True):
                    e.store(whole, at, value, width // parts)
            with e.when(group > 0):
                for whole, value in zip(total, values, strict=True):
                    e.store(whole, at, e.load(whole, at, width // parts) + value, width // parts)
        if total:
            with e.when(group == spec.groups - 1):
                for v, (begin, width) in enumerate(block.ends):
                    values = [e.load(whole, (row + v * lanes) // parts, width // parts) for whole in total]
                    acc.store(spec.epilogue, self.views, values, block.n, o, start + begin, width)
