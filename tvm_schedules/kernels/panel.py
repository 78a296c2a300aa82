"""Offset-sparse ternary convolution over panels: the sums of :mod:`.sparse`, by aligned loads from the first cache.

The taps of a convolution start at any byte, and a load of a whole cache line that is not aligned takes two. Here the
pixels that a block of output pixels reads are first copied into a panel, once for every tap of some input channels
(taps that are a multiple of a line apart share the copy), and the output channels then read the panel: every load is
aligned, and the panel stays in the cache until the last of them is done. The sums of a panel wait in memory, as 16-bit
words while they cannot overflow, as float32 from there on.

Images of few vectors, whose rows are a quarter or half of one, have them dealt out to the vectors like cards (see
:func:`.panel_lists.dealt`): a panel is half as large then, and a list is read once for the whole image. Where there is
room for a byte behind every seven pixels, the sums take two additions a vector instead of three operations (see
:class:`.sums.Sevens`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..compat import Emitter, kernel_function
from ..graph import Fused
from ..layout import ALIGN
from .epilogue import fill_borders
from .panel_lists import Copies, copies, dealt, longest, sevens, undealt
from .pixel_rows import PixelRows
from .sparse import row_chunks, row_splits
from .sums import Bytes, Sevens
from .taps import taps_limit
from .ternary_rows import TernaryRows

if TYPE_CHECKING:
    from ..lower import Lowering

__all__ = ["Spec", "emit", "lower"]

PANEL = 28_000
"""Bytes of a panel: with the sums that pass through, the first-level cache holds it."""

AHEAD = 1024
"""How many taps ahead a list is fetched."""


@dataclass(frozen=True)
class Spec(PixelRows):
    """All that the code depends on.

    Args:
        taps: Taps in all, and the zeros that fill lists up.
        copies: For one input channel, what goes into the panel.
        dealt: Bytes of a row where rows are dealt out to the vectors, else 0.
        sevens: Whether every eighth byte does not matter.
        channels: Input channels a panel.
        groups: Runs of panels whose sums fit 16 bits.
        unroll: Taps in the body of a loop.
        once: Taps whose pixels a byte holds the sum of.
    """

    taps: int
    copies: Copies
    dealt: int
    sevens: bool
    channels: int
    groups: int
    unroll: int
    once: int

    @property
    def panels(self) -> int:
        """Panels one after the other."""
        return -(-self.x.channels // self.channels)

    @property
    def share(self) -> int:
        """Output channels a job."""
        return -(-self.rows // self.chunks)


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, offsets, bounds, order, groups, <epilogue>``."""
    ep, x = spec.epilogue, spec.x
    own = (
        ("offsets", "uint16", spec.taps + 1),
        ("bounds", "int32", 2 * spec.panels * spec.rows + 1),
        ("order", "uint16", spec.panels * spec.rows),
        ("groups", "int32", spec.groups + 1),
    )
    arguments = [("x", "uint8"), *((name, dtype) for name, dtype, _ in own)]
    full, tail = spec.widths
    blocks = full + bool(tail)
    shares = -(-spec.rows // spec.share)
    per_channel, channel = x.phases * x.plane, spec.copies.channel
    size, quarter = spec.block * spec.vector, Bytes.parts
    room = x.elements + spec.pixels

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], room, "uint8")
        offsets, bounds, order, groups = (e.view(p, n, t) for p, (_, t, n) in zip(pointers[1:5], own, strict=True))
        views = ep.views(e, list(pointers[5:]), spec.rows, spec.pixels)

        def pack(panel: Any, n: Any, first: Any, start: Any, reach: int) -> None:
            count = e.min(e.expr(spec.channels), e.expr(x.channels) - first)
            with e.loop(count) as c:
                source = e.part(bx, (n * x.channels + first + c) * per_channel + start, room, "uint8")
                for place, (sources, least) in enumerate(spec.copies.vectors):
                    if reach > least:
                        parts = [e.load(source, begin, spec.vector // len(sources)) for begin in sources]
                        order = spec.copies.order or range(spec.vector)
                        pixels = e.shuffle(parts, list(order)) if len(parts) > 1 else parts[0]
                        e.store(panel, c * channel + place * spec.vector, pixels, spec.vector)

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

        def finish(acc: Any, total: list[Any], group: Any, n: Any, i: Any, o: Any, start: Any, parts: Any) -> None:
            """What follows the last panel of a group: the epilogue, or sums in float32 before that."""
            for at, width in parts:
                sums = acc.sums(at, width)
                if total:
                    with e.when(group == 0):
                        for whole, value in zip(total, sums, strict=True):
                            e.store(whole, (i * size + at) // quarter, value, width // quarter)
                    with e.when(group > 0):
                        for whole, value in zip(total, sums, strict=True):
                            old = e.load(whole, (i * size + at) // quarter, width // quarter)
                            e.store(whole, (i * size + at) // quarter, old + value, width // quarter)
                else:
                    acc.store(ep, views, sums, n, o, start + at, width)
            if total:
                with e.when(group == spec.groups - 1):
                    for at, width in parts:
                        sums = [e.load(whole, (i * size + at) // quarter, width // quarter) for whole in total]
                        acc.store(ep, views, sums, n, o, start + at, width)

        def run(n: Any, begin: Any, block: Any, widths: list[int], memory: tuple[Any, Any, list[Any]]) -> None:
            panel, waiting, total = memory
            acc = Sevens(e, spec) if spec.sevens else Bytes(e, spec)
            start = block * size
            ends = [(sum(widths[:v]), width) for v, width in enumerate(widths)]
            parts = [(v * spec.vector, spec.vector) for v in range(spec.block)] if spec.dealt else ends
            reach = -(-sum(widths) // spec.vector) * spec.vector
            count = e.min(e.expr(spec.share), e.expr(spec.rows) - begin)
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
                                    acc.recall(waiting, i * (size // 2), at, width)
                        taps(acc, panel, place * 2, parts)
                        if waiting:
                            with e.when(k < last - first - 1):
                                for at, width in parts:
                                    acc.save(waiting, i * (size // 2), at, width)
                        with e.when(k == last - first - 1):
                            done = acc.rearranged(undealt(spec.block, spec.dealt, spec.sevens)) if spec.dealt else acc
                            finish(done, total, group, n, i, begin + i, start, ends)

        with e.jobs(x.batch * shares * blocks, spec.parallel) as job:
            n, rest = job // (shares * blocks), job % (shares * blocks)
            begin, block = rest // blocks * spec.share, rest % blocks
            room_for_sums = spec.share * size // 2
            zeros = spec.channels * channel
            panel = e.scratch(zeros + size, "uint8")
            for at in range(0, size, spec.vector):
                e.store(panel, zeros + at, e.const(0, f"uint8x{spec.vector}"), spec.vector)
            waiting = [e.scratch(room_for_sums, "uint16") for _ in range(2)] if spec.panels > 1 else []
            total = [
                e.scratch(spec.share * size // quarter, "float32") for _ in range(quarter if spec.groups > 1 else 0)
            ]
            memory = (panel, waiting, total)
            if full:
                with e.when(block < full):
                    run(n, begin, block, [spec.vector] * spec.block, memory)
            if tail:
                with e.when(block == full):
                    run(n, begin, block, tail, memory)
            with e.when(block == 0), e.loop(e.min(e.expr(spec.share), e.expr(spec.rows) - begin)) as i:
                fill_borders(e, ep.out, views["out"], n, begin + i, spec.pixels)

    return kernel_function([*arguments, *ep.arguments], body)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes 8-bit ternary convolutions of one group and one level a row that do not fit the first-level cache."""
    layer = TernaryRows.take(ctx, node, 8)
    vector = ctx.target.vector_bytes
    if layer is None or layer.linear or not layer.single or layer.window.groups != 1 or vector != 64:
        return False
    x, rows = layer.x, layer.weight.channels
    vectors = -(-x.run(layer.window.output(x.dims)) // vector)
    pick, name = ctx.choices.pick, node.name
    # Of few blocks an odd one would be waited for by a second thread.
    usual = 1 if (pairs := -(-vectors // 2)) % 2 and pairs < 9 else 2
    cards = dealt(layer.window, x, vectors)
    if cards is not None and pick(name, "dealt", 1, (0, 1)):
        held, block, row = cards, vectors, x.pitch[1]
    else:
        block, row = pick(name, "block", usual, range(1, min(4, vectors) + 1)), 0
        held = copies(layer.window, x, block * vector)
    spaced = bool(row or x.pitch[1] == 8) and sevens(layer.window, x)
    channel = held.channel
    # Copying has to pay by many output channels; of short lists over a large image it did not, measured.
    long = vectors <= 16 or layer.taps >= 0.11 * layer.dense
    pays = long and layer.taps >= 7 * x.channels * (channel // (block * vector))
    # One vector is worth a panel even where all of the image would fit: its lists are long runs of aligned loads.
    large = vectors == 1 or x.channels * x.phases * x.plane > PANEL
    if (
        channel > PANEL
        or len(held.places) > taps_limit(x, layer.quant.top)
        or not ctx.choices.wants(name, "panel", pays and large)
    ):
        return False
    most = PANEL // channel
    channels = pick(name, "channels", most, (most // 2, 65535 // channel))
    channels = -(-x.channels // -(-x.channels // max(1, min(channels, 65535 // channel, x.channels))))
    limit = taps_limit(x, layer.quant.top)
    while channels > 1 and longest(layer.codes[0], channels) > limit:
        channels -= 1
    # A panel is made anew for every job, so jobs have many output channels.
    chunks = max(1, min(row_chunks(rows, -(-vectors // block)), rows // 128))
    chunks = pick(name, "chunks", chunks, row_splits(rows))
    parallel = layer.taps * vectors * vector > ctx.serial * 16
    source = ctx.packed(layer.key)
    mean = layer.taps / (2 * rows * -(-x.channels // channels))
    # Lists that are read once or twice had better be easy to foresee, others as short as they can be.
    few = mean < (20 if vectors == 1 else 16)
    unroll = 4 if row or (few and vectors == 1) else 2 if few else 8 if vectors <= 4 else 4
    unroll = pick(name, "unroll", unroll, (2, 4, 8))
    given = {"places": list(held.places), "channel": channel, "channels": channels, "limit": limit}
    made = layer.constants("panel", x, **given, share=-(-rows // chunks), unroll=unroll)
    ep, beside, out = ctx.epilogue(node, False, x, Bytes.unit)
    taps, groups = made["offsets"].nbytes // 2 - 1, made["groups"].nbytes // 4 - 1
    once = next(n for n in (8, 4, 2, 1) if n <= unroll and n * layer.quant.top <= 255)
    spec = Spec(
        x, rows, 0, vector, block, chunks, parallel, ep, taps, held, row, spaced, channels, groups, unroll, once
    )
    own = [source, *(made[part] for part in ("offsets", "bounds", "order", "groups"))]
    reason = f"{layer.weight.sparsity():.1%} zeros: adds and subtracts {layer.taps} of {layer.dense} taps, in panels"
    layer.finish("panel", spec, own, layer.numbers(), beside, out, reason)
    return True
