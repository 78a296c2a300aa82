"""The lists of where a panel's taps are (numpy; runs at load)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["longest", "pack"]


def pack(
    codes: np.ndarray, places: Sequence[int], channel: int, panel: int, limit: int, share: int, unroll: int
) -> dict[str, np.ndarray]:
    """Expands ternary codes into the kernel's lists (numpy; runs when a library is loaded).

    A list is as long as a multiple of ``unroll``; zeros behind the panel fill it up. The rows of a job come in the
    order of their lists' lengths, so that the CPU foresees where loops end: a list is read once or a few times in a
    run of a network, and a wrong guess takes as long as ten taps.

    Args:
        codes: int8 ``[O, C, taps]``.
        places: Where the pixels of every tap are in a channel's part of the panel.
        channel: Pixels of that part.
        panel: Channels a panel.
        limit: Taps of one sign that 16-bit sums hold.
        share: Output channels that a job may be about.
        unroll: Taps in the body of a loop.

    Returns:
        ``offsets`` uint16; ``bounds`` int32 ``[panels * O * 2 + 1]`` (begin of the additions and of the subtractions,
        in rounds of the loop); ``order`` uint16 ``[panels * O]``, which row is next; and ``groups`` int32:
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
        "order": order.ravel().astype(np.uint16),
        "groups": np.array([*groups, panels], np.int32),
    }


def longest(codes: np.ndarray, channels: int) -> int:
    """The most codes of one sign that a row has in a panel of so many channels."""
    starts = np.arange(0, codes.shape[1], channels)
    signs = [(codes.reshape(*codes.shape[:2], -1) == sign).sum(2) for sign in (1, -1)]
    return int(max(np.add.reduceat(count, starts, axis=1).max() for count in signs))
