"""What of an image a panel holds, and the lists of where its taps are there (numpy; see :mod:`.panel`)."""

from __future__ import annotations

import numpy as np

from ..layout import ALIGN, Halo, Window

__all__ = ["Copies", "copies", "lists", "longest"]

Copies = tuple[tuple[int, int], ...]


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


def lists(
    codes: np.ndarray, places: list[int], channel: int, panel: int, limit: int, share: int, unroll: int
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
