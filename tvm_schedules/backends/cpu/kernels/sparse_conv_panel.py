"""Offset-sparse ternary convolution over panels: the sums of :mod:`.sparse_conv` by aligned loads from L1.

The taps of a convolution start at any byte, and a load of a whole cache line that is not aligned takes two. Here the
pixels that a block of output pixels reads are first copied into a panel, once for every tap of some input channels
(taps that are a multiple of a line apart share the copy), and the output channels then read the panel: every load is
aligned, and the panel stays in the cache until the last of them is done. The sums of a panel wait in memory, as 16-bit
words while they cannot overflow, as float32 from there on.

Images whose rows are a quarter, half or all of a vector have them dealt out to the vectors of a block like cards (see
:func:`.panel_copies.dealt`): a panel is half as large then, and an image of few vectors is one block, so that lists are
read once. Where there is room for a byte behind every seven pixels, the sums take two additions a vector instead of
three operations (see :class:`.accumulators.Sevens`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.kernels.common.accumulators import Bytes, Floats, Sevens
from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, views_of
from tvm_schedules.backends.cpu.kernels.common.panel_copies import Copies, Deal, geometry, sevens
from tvm_schedules.backends.cpu.kernels.common.pixel_rows import PixelRows
from tvm_schedules.backends.cpu.kernels.common.ternary_rows import TernaryRows
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused
from tvm_schedules.ir.layout import ALIGN
from tvm_schedules.lowering.layouts import home
from tvm_schedules.lowering.rules.sparse_conv import row_chunks, row_splits
from tvm_schedules.packing.panel_lists import longest
from tvm_schedules.packing.tap_lists import taps_limit
from tvm_schedules.targets.registry import SMALLEST_L1

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "panel"
"""What artifacts and tuning databases call this kernel."""

PANEL = 6 / 7
"""What part of 32 KiB, the smallest first-level cache, a panel may take, with the sums that pass through.

Of the whole cache where rows are dealt out; others were not faster for more.
"""

FLOATS = 40_000
"""Bytes of a panel of floats, whose longer blocks read a list less often: the second-level cache is near enough."""

CHANNELS = 128
"""Output channels a job at least, for which a panel is made anew."""

AHEAD = 1024
"""How many taps ahead a list is fetched."""


@dataclass(frozen=True)
class Spec(PixelRows):
    """All that the code depends on.

    Args:
        taps: Taps in all, and the zeros that fill lists up.
        copies: For one input channel, what goes into the panel.
        deal: How rows are dealt out to the vectors, if they are.
        sevens: Whether every eighth byte does not matter.
        halves: Whether the middle one of the blocks is two jobs, of half the output channels each: of an odd number of
            blocks two threads have the same work then.
        channels: Input channels a panel.
        groups: Runs of panels whose sums fit 16 bits.
        unroll: Taps in the body of a loop.
        once: Taps whose pixels a byte holds the sum of.
    """

    taps: int
    copies: Copies
    deal: Deal | None
    sevens: bool
    halves: bool
    channels: int
    groups: int
    unroll: int
    once: int

    @property
    def step(self) -> int:
        """Pixels a block."""
        return self.deal.step(self.lanes) if self.deal else self.block * self.lanes

    @property
    def panels(self) -> int:
        """Panels one after the other."""
        return -(-self.x.channels // self.channels)

    @property
    def share(self) -> int:
        """Output channels that a job may be about."""
        return -(-self.rows // (2 if self.halves else self.chunks))

    @property
    def most(self) -> int:
        """Output channels that a job is about at most."""
        return self.rows if self.halves else self.share


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, offsets, bounds, order, groups, <epilogue>``."""
    ep, x, lanes = spec.epilogue, spec.x, spec.lanes
    kind = Floats if x.dtype == "float32" else Sevens if spec.sevens else Bytes
    own = (
        ("offsets", "uint16", spec.taps + 1),
        ("bounds", "int32", 2 * spec.panels * spec.rows + 1),
        ("order", "uint16", spec.panels * spec.rows),
        ("groups", "int32", spec.groups + 1),
    )
    arguments = [("x", x.dtype), *((name, dtype) for name, dtype, _ in own)]
    full, tail = spec.widths
    blocks = full + bool(tail)
    shares = -(-spec.rows // spec.share)
    per_channel, channel = x.phases * x.plane, spec.copies.channel
    size = spec.block * lanes
    room = x.elements + spec.pixels

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], room, x.dtype)
        offsets, bounds, order, groups = (e.view(p, n, t) for p, (_, t, n) in zip(pointers[1:5], own, strict=True))
        views = views_of(e, ep, list(pointers[5:]), spec.rows, spec.pixels)

        def pack(panel: Any, n: Any, first: Any, start: Any, reach: int) -> None:
            count = e.min(e.expr(spec.channels), e.expr(x.channels) - first)
            with e.loop(count) as c:
                source = e.part(bx, (n * x.channels + first + c) * per_channel + start, room, x.dtype)
                for place, (sources, least) in enumerate(spec.copies.vectors):
                    if reach > least:
                        parts = [e.load(source, begin, lanes // len(sources)) for begin in sources]
                        order = spec.copies.order or range(lanes)
                        pixels = (
                            parts[0] if len(parts) == 1 and not spec.copies.order else e.shuffle(parts, list(order))
                        )
                        e.store(panel, c * channel + place * lanes, pixels, lanes)

        mean = spec.taps // (2 * spec.panels * spec.rows)
        fetch = -(-mean * 2 // ALIGN)

        def offsets_of(offsets: Any, begin: Any) -> list[Any]:
            """The offsets of a round. Up to four are one load: those of pixels are as many as the CPU can do."""
            found: list[Any] = []
            size = min(4, spec.unroll)
            word = f"uint{16 * size}"
            for u in range(0, spec.unroll, size):
                packed = e.bits(e.load(offsets, begin + u, size), word)
                for k in range(size):
                    found.append(e.cast((packed >> e.const(16 * k, word)) & e.const(65535, word), "int32"))
            return found

        def taps(acc: Any, panel: Any, run: Any, parts: list[tuple[int, int]]) -> None:
            for sign, index in ((+1, 0), (-1, 1)):
                first, last = (e.load(bounds, run + index + i) for i in range(2))
                for line in range(fetch):
                    e.prefetch(offsets, first * spec.unroll + AHEAD + line * (ALIGN // 2))
                with e.loop(last - first) as j:
                    places = offsets_of(offsets, (first + j) * spec.unroll)
                    for u in range(0, spec.unroll, spec.once):
                        for at, width in parts:
                            read = [e.load(panel, place + at, width) for place in places[u : u + spec.once]]
                            acc.add(at, width, sum(read[1:], read[0]), sign)

        def finish(acc: Any, total: list[Any], group: Any, n: Any, i: Any, o: Any, ends: list[tuple[Any, int]]) -> None:
            """What follows the last panel of a group: the epilogue, or sums in float32 before that."""
            for v, (pixel, width) in enumerate(ends):
                sums, at = acc.sums(v * lanes, width), (i * size + v * lanes) // kind.parts
                if not total:
                    acc.store(ep, views, sums, n, o, pixel, width)
                    continue
                with e.when(group == 0):
                    for whole, value in zip(total, sums, strict=True):
                        e.store(whole, at, value, width // kind.parts)
                with e.when(group > 0):
                    for whole, value in zip(total, sums, strict=True):
                        old = e.load(whole, at, width // kind.parts)
                        e.store(whole, at, old + value, width // kind.parts)
            if total:
                with e.when(group == spec.groups - 1):
                    for v, (pixel, width) in enumerate(ends):
                        at = (i * size + v * lanes) // kind.parts
                        sums = [e.load(whole, at, width // kind.parts) for whole in total]
                        acc.store(ep, views, sums, n, o, pixel, width)

        def run(
            n: Any, begin: Any, count: Any, block: Any, ends: list[tuple[int, int]], memory: tuple[Any, Any, list[Any]]
        ) -> None:
            panel, waiting, total = memory
            acc = kind(e, spec)
            start = block * spec.step
            parts = [(v * lanes, lanes) for v in range(spec.block)] if spec.deal else ends
            reach = len(ends) * lanes
            with e.loop(spec.groups) as group:
                first = e.load(groups, group)
                last = e.load(groups, group + 1)
                with e.loop(last - first) as k:
                    pack(panel, n, (first + k) * spec.channels, start, reach)
                    with e.loop(count) as turn:
                        place = (first + k) * spec.rows + begin + turn
                        i = e.cast(e.load(order, place), "int32")
                        with e.when(k == 0):
                            for at, width in parts:
                                acc.zero(at, width)
                        if waiting:
                            with e.when(k > 0):
                                for at, width in parts:
                                    acc.recall(waiting, i - begin, at, width)
                        taps(acc, panel, place * 2, parts)
                        if waiting:
                            with e.when(k < last - first - 1):
                                for at, width in parts:
                                    acc.save(waiting, i - begin, at, width)
                        with e.when(k == last - first - 1):
                            done = acc
                            if deal := spec.deal:
                                done = acc.rearranged(
                                    [[deal.source(at + p, lanes) for p in range(lanes)] for at, _ in ends]
                                )
                            finish(done, total, group, n, i - begin, i, [(start + at, width) for at, width in ends])

        jobs = blocks + 1 if spec.halves else shares * blocks
        with e.jobs(x.batch * jobs, spec.parallel) as job:
            n, rest = job // jobs, job % jobs
            if spec.halves:
                middle = blocks // 2
                block = e.select(rest > middle, rest - 1, rest)
                begin = e.select(rest == middle + 1, e.expr(spec.share), e.expr(0))
                end = e.select(rest == middle, e.expr(spec.share), e.expr(spec.rows))
            else:
                block, begin = rest // shares, rest % shares * spec.share
                end = e.min(begin + spec.share, e.expr(spec.rows))
            count = end - begin
            zeros = spec.channels * channel
            panel = e.scratch(zeros + size, x.dtype)
            for at in range(0, size, lanes):
                e.store(panel, zeros + at, e.const(0, f"{x.dtype}x{lanes}"), lanes)
            room_for_sums = spec.most * size // len(kind.memory)
            waiting = [e.scratch(room_for_sums, dtype) for dtype in kind.memory] if spec.panels > 1 else []
            total = [
                e.scratch(spec.most * size // kind.parts, "float32")
                for _ in range(kind.parts if spec.groups > 1 else 0)
            ]
            memory = (panel, waiting, total)
            if full:
                with e.when(block < full):
                    whole = range(0, spec.step, lanes)
                    # The next block is another job: the last vector must not reach into it.
                    run(n, begin, count, block, [(min(at, spec.step - lanes), lanes) for at in whole], memory)
            if tail:
                with e.when(block == full):
                    run(n, begin, count, block, [(sum(tail[:v]), width) for v, width in enumerate(tail)], memory)
            fill_borders(e, ep.out, views["out"], n, begin, spec.pixels, planes=count, block=block, blocks=blocks)

    return kernel_function([*arguments, *ep.arguments], body)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes ternary convolutions of one group and one level a row that do not fit the first-level cache."""
    layer = TernaryRows.take(ctx, node, 8, floats=True)
    vector = ctx.target.vector_bytes
    if layer is None or layer.linear or not layer.single or layer.window.groups != 1 or vector != 64:
        return False
    x, rows = layer.x, layer.weight.channels
    floats, lanes = x.dtype == "float32", vector // x.itemsize
    pick, name = ctx.choices.pick, node.name
    vectors = -(-x.run(layer.window.output(x.dims)) // lanes)
    # Threads share output channels only where there are many.
    written = ctx.layouts[home(ctx.graph, node.outputs[0], False)]
    least, space = 1 if rows >= 2 * CHANNELS else 2, written.plane - written.origin
    found = geometry(layer.window, x, vectors, least, space, lambda *number: pick(name, *number))
    if found is None:
        return False
    held, deal, block = found
    room = FLOATS if floats else int(PANEL * (ctx.target.l1_bytes if deal else SMALLEST_L1))
    spaced = not floats and bool(deal or x.pitch[1] == 8) and sevens(layer.window, x)
    channel = held.channel
    # Copying has to pay by many output channels; of short lists over a large image it did not, measured.
    long = floats or deal is not None or vectors <= 16 or layer.taps >= 0.11 * layer.dense
    pays = long and layer.taps >= 7 * x.channels * (channel // (block * lanes))
    # A single tap is aligned where it is.
    pays = pays and (vectors == 1 or prod(layer.window.kernel) > 1)
    # One vector is worth a panel even where all of the image would fit: its lists are long runs of aligned loads.
    large = vectors == 1 or floats or x.channels * x.phases * x.plane * x.itemsize > room
    if (
        channel * x.itemsize > room
        or len(held.places) > taps_limit(x, layer.quant.top)
        or not ctx.choices.wants(name, NAME, pays and large)
    ):
        return False
    most = room // (channel * x.itemsize)
    channels = pick(name, "channels", most, (most // 2, 65535 // channel))
    channels = -(-x.channels // -(-x.channels // max(1, min(channels, 65535 // channel, x.channels))))
    limit = taps_limit(x, layer.quant.top)
    while channels > 1 and longest(layer.codes[0], channels) > limit:
        channels -= 1
    chunks = max(1, min(row_chunks(rows, -(-vectors // block)), rows // CHANNELS))
    chunks = pick(name, "chunks", chunks, row_splits(rows))
    parallel = layer.taps * vectors * lanes > ctx.serial * 16
    # Of few blocks an odd one would be waited for by a second thread.
    blocks = -(-x.run(layer.window.output(x.dims)) // (deal.step(lanes) if deal else block * lanes))
    halves = not floats and chunks == 1 and 1 < blocks < 16 and blocks % 2 == 1
    source = ctx.packed(layer.key)
    mean = layer.taps / (2 * rows * -(-x.channels // channels))
    # Lists that are read once or twice had better be easy to foresee, others as short as they can be.
    few = mean < (20 if vectors == 1 else 16)
    unroll = 1 if floats else 4 if deal or (few and vectors == 1) else 2 if few else 8 if vectors <= 4 else 4
    unroll = pick(name, "unroll", unroll, (1, 2, 4) if floats else (2, 4, 8))
    given = {"places": list(held.places), "channel": channel, "channels": channels, "limit": limit}
    made = layer.constants("panel", x, **given, share=-(-rows // (2 if halves else chunks)), unroll=unroll)
    end = ctx.destination(node, False, x, (Floats if floats else Bytes).unit)
    ep = end.epilogue
    taps, groups = made["offsets"].nbytes // 2 - 1, made["groups"].nbytes // 4 - 1
    once = 1 if floats else next(n for n in (8, 4, 2, 1) if n <= unroll and n * layer.quant.top <= 255)
    rest = {"halves": halves, "channels": channels, "groups": groups, "unroll": unroll, "once": once}
    spec = Spec(
        x, rows, 0, vector, block, chunks, parallel, ep, taps=taps, copies=held, deal=deal, sevens=spaced, **rest
    )
    # The last block may read rows below the image.
    beyond = -(-x.run(ep.size) // spec.step) * spec.step
    ctx.largest_read = max(ctx.largest_read, x.itemsize * (beyond + x.plane + ALIGN))
    own = [source, *(made[part] for part in ("offsets", "bounds", "order", "groups"))]
    reason = f"{layer.weight.sparsity():.1%} zeros: adds and subtracts {layer.taps} of {layer.dense} taps, in panels"
    layer.finish(NAME, spec, own, layer.numbers(), end, reason)
    return True
