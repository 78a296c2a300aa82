"""Offset-sparse ternary convolution over panels: the sums of :mod:`.sparse`, by aligned loads from the first cache.

The taps of a convolution start at any byte, and a load of a whole cache line that is not aligned takes two. Here the
pixels that a block of output pixels reads are first copied into a panel, once for every tap of some input channels
(taps that are a multiple of a line apart share the copy), and the output channels then read the panel: every load is
aligned, and the panel stays in the cache until the last of them is done. The sums of a panel wait in memory, as 16-bit
words while they cannot overflow, as float32 from there on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compat import Emitter, private_function
from ..graph import Fused
from ..layout import ALIGN, Halo, Window
from .epilogue import fill_borders
from .pixel_rows import PixelRows
from .sparse import row_chunks, row_splits
from .sums import Bytes
from .taps import taps_limit
from .ternary_rows import TernaryRows

if TYPE_CHECKING:
    from ..lower import Lowering

__all__ = ["Spec", "copies", "emit", "lists", "lower"]

PANEL = 28_000
"""Bytes of a panel: with the sums that pass through, the first-level cache holds it."""

Copies = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Spec(PixelRows):
    """All that the code depends on.

    Args:
        taps: Taps in all.
        copies: For one input channel, what goes into the panel: source offset and length in bytes.
        channels: Input channels a panel.
        groups: Runs of panels whose sums fit 16 bits.
    """

    taps: int
    copies: Copies
    channels: int
    groups: int

    @property
    def panels(self) -> int:
        """Panels one after the other."""
        return -(-self.x.channels // self.channels)

    @property
    def channel(self) -> int:
        """Bytes of one input channel in a panel."""
        return sum(length for _, length in self.copies)

    @property
    def share(self) -> int:
        """Output channels a job."""
        return -(-self.rows // self.chunks)


def copies(window: Window, x: Halo, size: int) -> tuple[Copies, list[int]]:
    """What of one input channel a panel holds for a block of ``size`` bytes of output pixels.

    Returns:
        Runs ``(source offset, length)`` in bytes, lengths in whole lines, and for every tap of the window the place
        where its pixels start in the panel.
    """
    starts = [x.offset(0, phase, shift) for phase, shift in window.taps()]
    runs: list[list[int]] = []
    place: dict[int, tuple[int, int]] = {}
    for start in sorted(set(starts), key=lambda s: (s % ALIGN, s)):
        last = runs[-1] if runs else None
        if last and last[0] % ALIGN == start % ALIGN and start <= last[0] + last[1]:
            last[1] = max(last[1], start - last[0] + size)
        else:
            runs.append([start, size])
        place[start] = (len(runs) - 1, start - runs[-1][0])
    begin = np.cumsum([0, *(length for _, length in runs)])
    return tuple((s, n) for s, n in runs), [int(begin[place[s][0]]) + place[s][1] for s in starts]


def lists(codes: np.ndarray, places: list[int], channel: int, panel: int, limit: int) -> dict[str, np.ndarray]:
    """Expands ternary codes into the kernel's lists (numpy; runs when a library is loaded).

    Args:
        codes: int8 ``[O, C, taps]``.
        places: Where the pixels of every tap are in a channel's part of the panel, bytes.
        channel: Bytes of that part.
        panel: Channels a panel.
        limit: Taps of one sign that 16-bit sums hold.

    Returns:
        ``offsets`` uint16, ``bounds`` int32 ``[panels * O * 2 + 1]`` (begin of the additions and of the
        subtractions), and ``groups`` int32: the first panel of each run of panels that 16-bit sums hold, and the end.
    """
    rows, channels, _ = codes.shape
    panels = -(-channels // panel)
    o, c, t = np.nonzero(codes)
    minus = (codes[o, c, t] < 0).astype(np.int64)
    counts = np.bincount(((c // panel) * rows + o) * 2 + minus, minlength=panels * rows * 2).reshape(panels, rows, 2)
    offsets = (c % panel) * channel + np.asarray(places)[t]
    offsets = offsets[np.lexsort((offsets, minus, o, c // panel))]
    groups, most = [0], np.zeros((rows, 2), np.int64)
    for index, part in enumerate(counts):
        if index > groups[-1] and (most + part).max() > limit:
            groups.append(index)
            most = np.zeros_like(most)
        most = most + part
    return {
        "offsets": np.concatenate([offsets, [0]]).astype(np.uint16),
        "bounds": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        "groups": np.array([*groups, panels], np.int32),
    }


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, offsets, bounds, groups, <epilogue>``."""
    ep, x = spec.epilogue, spec.x
    arguments = [("x", "uint8"), ("offsets", "uint16"), ("bounds", "int32"), ("groups", "int32")]
    full, tail = spec.widths
    blocks = full + bool(tail)
    shares = -(-spec.rows // spec.share)
    per_channel = x.phases * x.plane
    size = spec.block * spec.vector
    room = x.elements + spec.pixels

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], room, "uint8")
        sizes = (
            ("uint16", spec.taps + 1),
            ("int32", 2 * spec.panels * spec.rows + 1),
            ("int32", spec.groups + 1),
        )
        offsets, bounds, groups = (e.view(p, n, t) for p, (t, n) in zip(pointers[1:4], sizes, strict=True))
        views = ep.views(e, list(pointers[4:]), spec.rows, spec.pixels)

        def pack(panel: Any, n: Any, first: Any, start: Any, reach: int) -> None:
            count = e.min(e.expr(spec.channels), e.expr(x.channels) - first)
            with e.loop(count) as c:
                source = e.part(bx, (n * x.channels + first + c) * per_channel + start, room, "uint8")
                at = 0
                for begin, length in spec.copies:
                    for line in range(0, length - (size - reach), spec.vector):
                        pixels = e.load(source, begin + line, spec.vector)
                        e.store(panel, c * spec.channel + at + line, pixels, spec.vector)
                    at += length

        def taps(acc: Any, panel: Any, run: Any, parts: list[tuple[int, int]]) -> None:
            for sign, index in ((+1, 0), (-1, 1)):
                first, last = (e.load(bounds, run + index + i) for i in range(2))
                with e.loop(last - first) as j:
                    where = e.cast(e.load(offsets, first + j), "int32")
                    for at, width in parts:
                        acc.add(at, width, e.load(panel, where + at, width), sign)

        def finish(acc: Any, total: list[Any], group: Any, n: Any, i: Any, o: Any, start: Any, parts: Any) -> None:
            """What follows the last panel of a group: the epilogue, or sums in float32 before that."""
            for at, width in parts:
                sums = acc.sums(at, width)
                if total:
                    with e.when(group == 0):
                        for whole, value in zip(total, sums, strict=True):
                            e.store(whole, i * (size // 2) + at // 2, value, width // 2)
                    with e.when(group > 0):
                        for whole, value in zip(total, sums, strict=True):
                            old = e.load(whole, i * (size // 2) + at // 2, width // 2)
                            e.store(whole, i * (size // 2) + at // 2, old + value, width // 2)
                else:
                    acc.store(ep, views, sums, n, o, start + at, width)
            if total:
                with e.when(group == spec.groups - 1):
                    for at, width in parts:
                        sums = [e.load(whole, i * (size // 2) + at // 2, width // 2) for whole in total]
                        acc.store(ep, views, sums, n, o, start + at, width)

        def run(n: Any, begin: Any, block: Any, widths: list[int], memory: tuple[Any, Any, list[Any]]) -> None:
            panel, waiting, total = memory
            acc = Bytes(e, spec)
            start = block * size
            parts = [(sum(widths[:v]), width) for v, width in enumerate(widths)]
            reach = -(-sum(widths) // spec.vector) * spec.vector
            count = e.min(e.expr(spec.share), e.expr(spec.rows) - begin)
            with e.loop(spec.groups) as group:
                first = e.load(groups, group)
                last = e.load(groups, group + 1)
                with e.loop(last - first) as k:
                    pack(panel, n, (first + k) * spec.channels, start, reach)
                    with e.loop(count) as i:
                        with e.when(k == 0):
                            for at, width in parts:
                                acc.zero(at, width)
                        if waiting:
                            with e.when(k > 0):
                                for at, width in parts:
                                    acc.recall(waiting, i * (size // 2), at, width)
                        taps(acc, panel, ((first + k) * spec.rows + begin + i) * 2, parts)
                        if waiting:
                            with e.when(k < last - first - 1):
                                for at, width in parts:
                                    acc.save(waiting, i * (size // 2), at, width)
                        with e.when(k == last - first - 1):
                            finish(acc, total, group, n, i, begin + i, start, parts)

        with e.loop(x.batch * shares * blocks, parallel=spec.parallel) as job:
            n, rest = job // (shares * blocks), job % (shares * blocks)
            begin, block = rest // blocks * spec.share, rest % blocks
            room_for_sums = spec.share * size // 2
            panel = e.scratch(spec.channels * spec.channel, "uint8")
            waiting = [e.scratch(room_for_sums, "uint16") for _ in range(2)] if spec.panels > 1 else []
            total = [e.scratch(room_for_sums, "float32") for _ in range(2)] if spec.groups > 1 else []
            memory = (panel, waiting, total)
            if full:
                with e.when(block < full):
                    run(n, begin, block, [spec.vector] * spec.block, memory)
            if tail:
                with e.when(block == full):
                    run(n, begin, block, tail, memory)
            with e.when(block == 0), e.loop(e.min(e.expr(spec.share), e.expr(spec.rows) - begin)) as i:
                fill_borders(e, ep.out, views["out"], n, begin + i, spec.pixels)

    return private_function([*arguments, *ep.arguments], body)


def _longest(codes: np.ndarray, channels: int) -> int:
    """The most codes of one sign that a row has in a panel of so many channels."""
    starts = np.arange(0, codes.shape[1], channels)
    signs = [(codes.reshape(*codes.shape[:2], -1) == sign).sum(2) for sign in (1, -1)]
    return int(max(np.add.reduceat(count, starts, axis=1).max() for count in signs))


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes 8-bit ternary convolutions of one group and one level a row that do not fit the first-level cache."""
    layer = TernaryRows.take(ctx, node, 8)
    vector = ctx.target.vector_bytes
    if layer is None or layer.linear or not layer.single or layer.window.groups != 1 or vector != 64:
        return False
    x, rows = layer.x, layer.weight.channels
    vectors = -(-x.run(layer.window.output(x.dims)) // vector)
    pick, name = ctx.choices.pick, node.name
    block = pick(name, "block", min(2, vectors), range(1, min(4, vectors) + 1))
    runs, places = copies(layer.window, x, block * vector)
    channel = sum(length for _, length in runs)
    # Copying has to pay by many output channels. A few vectors, and short lists, were faster without panels.
    long = vectors == 1 or (vectors >= 8 and layer.taps >= 0.15 * layer.dense)
    pays = long and layer.taps >= 9 * x.channels * len(runs)
    large = x.channels * x.phases * x.plane > PANEL
    if channel > PANEL or len(places) > taps_limit(x) or not ctx.choices.wants(name, "panel", pays and large):
        return False
    most = PANEL // channel
    channels = pick(name, "channels", most, (most // 2, 65535 // channel))
    channels = -(-x.channels // -(-x.channels // max(1, min(channels, 65535 // channel, x.channels))))
    limit = taps_limit(x)
    while channels > 1 and _longest(layer.codes[0], channels) > limit:
        channels -= 1
    # A panel is made anew for every job, so jobs have many output channels.
    chunks = max(1, min(row_chunks(rows, -(-vectors // block)), rows // 128))
    chunks = pick(name, "chunks", chunks, row_splits(rows))
    parallel = bool(pick(name, "parallel", layer.taps * vectors * vector > ctx.serial * 16, (0, 1)))
    source = ctx.packed(layer.key)
    made = layer.constants("panel", x, places=places, channel=channel, channels=channels, limit=limit)
    ep, beside, out = ctx.epilogue(node, False, x)
    groups = made["groups"].nbytes // 4 - 1
    spec = Spec(x, rows, 0, vector, block, chunks, parallel, ep, layer.taps, runs, channels, groups)
    own = [source, *(made[part] for part in ("offsets", "bounds", "groups"))]
    reason = f"{layer.weight.sparsity():.1%} zeros: adds and subtracts {layer.taps} of {layer.dense} taps, in panels"
    layer.finish("panel", spec, own, layer.numbers(), beside, out, reason)
    return True
