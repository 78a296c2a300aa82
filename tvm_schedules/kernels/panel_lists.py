"""What of an image a panel holds, and the lists of where its taps are there (numpy; see :mod:`.panel`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..layout import ALIGN, Halo, Window

__all__ = ["Copies", "copies", "dealt", "lists", "longest", "sevens", "undealt"]


@dataclass(frozen=True)
class Copies:
    """What of one input channel a panel holds.

    Attributes:
        vectors: What is copied: ``(sources, least)``, needed by blocks of more than ``least`` bytes. Sources are
            elements from a block's first pixel on, in image 0 and channel 0; each gives an equal part of the vector.
        order: Which of a vector's bytes go where; empty where they stay as they are.
        places: For every tap of the window the place where its pixels start.
    """

    vectors: tuple[tuple[tuple[int, ...], int], ...]
    order: tuple[int, ...]
    places: tuple[int, ...]

    @property
    def channel(self) -> int:
        """Bytes of a channel."""
        return len(self.vectors) * ALIGN


def copies(window: Window, x: Halo, size: int) -> Copies:
    """Pixels as they are, for blocks of ``size`` bytes: a copy for every tap, but one for taps whole lines apart."""
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
    begin = np.cumsum([0, *(length for _, length in runs)]).tolist()
    vectors = [((start + line,), line - (length - size)) for start, length in runs for line in range(0, length, ALIGN)]
    return Copies(tuple(vectors), (), tuple(begin[place[s][0]] + place[s][1] for s in starts))


def dealt(window: Window, x: Halo, vectors: int) -> Copies | None:
    """Rows dealt out to the vectors like cards, row r to vector r modulo their number; None where that is no use.

    A tap of another row is then another vector, whole: of nine taps the three of a column share their pixels. For
    images of two to four ``vectors`` with rows of 16 or 32 bytes.
    """
    row = x.pitch[1]
    if not (1 < vectors <= 4 and row in (16, 32) and x.dims[0] == window.kernel[0] == 1):
        return None
    share = ALIGN // row
    rows: dict[int, list[int]] = {}
    for phase, (depth, height, width) in window.taps():
        rows.setdefault(x.offset(0, phase, (depth, 0, width)), []).append(height)
    copied: list[tuple[tuple[int, ...], int]] = []
    begin = {}
    for start, heights in rows.items():
        begin[start] = (len(copied) - min(heights)) * ALIGN
        for first in range(min(heights), max(heights) + vectors):
            copied.append((tuple(start + (first + part * vectors) * row for part in range(share)), -1))
    places = tuple(begin[x.offset(0, phase, (d, 0, w))] + h * ALIGN for phase, (d, h, w) in window.taps())
    order = [part * row + min(7 * (i // 8) + i % 8, row - 1) for part in range(share) for i in range(row)]
    return Copies(tuple(copied), tuple(order) if sevens(window, x) else (), places)


def sevens(window: Window, x: Halo) -> bool:
    """Whether rows leave room for a byte that does not matter behind every seven pixels."""
    return x.pitch[1] in (8, 16, 32) and window.output(x.dims)[2] <= x.pitch[1] // 8 * 7


def undealt(vectors: int, row: int, spaced: bool) -> list[list[int]]:
    """Of every vector of rows in their order, which of the dealt pixels are in it.

    Args:
        vectors: Their number.
        row: Pixels a row.
        spaced: Whether there is a byte behind every seven pixels of a dealt row.
    """
    share = ALIGN // row
    # Past the last seven there are no pixels; what is in their place does not matter.
    inside = [min(i + i // 7, row - 1) if spaced else i for i in range(row)]
    place = [(r % vectors) * ALIGN + r // vectors * row for r in range(vectors * share)]
    return [[at + i for at in place[v * share : (v + 1) * share] for i in inside] for v in range(vectors)]


def lists(
    codes: np.ndarray, places: Sequence[int], channel: int, panel: int, limit: int, share: int, unroll: int
) -> dict[str, np.ndarray]:
    """Expands ternary codes into the kernel's lists (numpy; runs when a library is loaded).

    A list is as long as a multiple of ``unroll``; zeros behind the panel fill it up. The rows of a job come in the
    order of their lists' lengths, so that the CPU foresees where loops end: a list is read once or a few times in a
    run of a network, and a wrong guess takes as long as ten taps.

    Args:
        codes: int8 ``[O, C, taps]``.
        places: Where the pixels of every tap are in a channel's part of the panel, bytes.
        channel: Bytes of that part.
        panel: Channels a panel.
        limit: Taps of one sign that 16-bit sums hold.
        share: Output channels a job.
        unroll: Taps in the body of a loop.

    Returns:
        ``offsets`` uint16; ``bounds`` int32 ``[panels * O * 2 + 1]`` (begin of the additions and of the subtractions,
        in rounds of the loop); ``order`` uint16 ``[panels * O]``, which row of its job is next; and ``groups`` int32:
        the first panel of each run of panels that 16-bit sums hold, and the end.
    """
    rows, channels, _ = codes.shape
    panels = -(-channels // panel)
    o, c, t = np.nonzero(codes)
    minus = (codes[o, c, t] < 0).astype(np.int64)
    counts = np.bincount(((c // panel) * rows + o) * 2 + minus, minlength=panels * rows * 2).reshape(panels, rows, 2)
    rounds = -(-counts // unroll)
    job = np.arange(rows) // share
    order = np.stack([np.lexsort((part[:, 1], part[:, 0], job)) for part in rounds])
    place = np.argsort(order, axis=1)
    bounds = np.concatenate([[0], np.cumsum(np.take_along_axis(rounds, order[:, :, None], 1))])
    offsets = (c % panel) * channel + np.asarray(places)[t]
    run = ((c // panel) * rows + place[c // panel, o]) * 2 + minus
    sort = np.lexsort((offsets, run))
    run = run[sort]
    filled = np.full(bounds[-1] * unroll + 1, panel * channel)
    filled[bounds[run] * unroll + np.arange(len(run)) - np.searchsorted(run, run)] = offsets[sort]
    groups, most = [0], np.zeros((rows, 2), np.int64)
    for index, part in enumerate(counts):
        if index > groups[-1] and (most + part).max() > limit:
            groups.append(index)
            most = np.zeros_like(most)
        most = most + part
    return {
        "offsets": filled.astype(np.uint16),
        "bounds": bounds.astype(np.int32),
        "order": (order - job * share).ravel().astype(np.uint16),
        "groups": np.array([*groups, panels], np.int32),
    }


def longest(codes: np.ndarray, channels: int) -> int:
    """The most codes of one sign that a row has in a panel of so many channels."""
    starts = np.arange(0, codes.shape[1], channels)
    signs = [(codes.reshape(*codes.shape[:2], -1) == sign).sum(2) for sign in (1, -1)]
    return int(max(np.add.reduceat(count, starts, axis=1).max() for count in signs))
