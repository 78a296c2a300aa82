"""What of an image a panel holds, and how its rows are interleaved over vectors (see :mod:`.sparse_conv_panel`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_schedules.ir.layout import ALIGN, Halo, Window

__all__ = [
    "Copies",
    "RowInterleaving",
    "copies",
    "geometry",
    "has_room_for_seven_of_eight",
    "interleaved_copies",
    "interleaving_of_bytes",
    "interleaving_of_floats",
]


@dataclass(frozen=True)
class Copies:
    """What of one input channel a panel holds.

    Attributes:
        vectors: What is copied: ``(sources, least)``, needed by blocks of more than ``least`` pixels. Sources are
            elements from a block's first pixel on, in image 0 and channel 0; each gives an equal part of the vector.
        order: Which of a vector's pixels go where; empty where they stay as they are.
        places: For every tap of the window the place where its pixels start.
        lanes: Pixels a vector.
    """

    vectors: tuple[tuple[tuple[int, ...], int], ...]
    order: tuple[int, ...]
    places: tuple[int, ...]
    lanes: int

    @property
    def channel(self) -> int:
        """Pixels of a channel."""
        return len(self.vectors) * self.lanes


@dataclass(frozen=True)
class RowInterleaving:
    """How a block's rows are interleaved over its vectors: row r goes to those of place r modulo ``rows``.

    Args:
        rows: Number of places.
        wide: Vectors of a place: more than one where a row is longer than a vector.
        part: Pixels of a vector that a row takes.
        pitch: Elements from one row to the next, where rows are in their order.
        spaced: Whether there is a pixel that does not matter behind every seven.
    """

    rows: int
    wide: int
    part: int
    pitch: int
    spaced: bool = False

    def step(self, lanes: int) -> int:
        """Pixels of a block in the order of rows, with what is between these."""
        return self.rows * (lanes // self.part) * self.pitch

    def source(self, pixel: int, lanes: int) -> int:
        """Where the interleaved vectors have a pixel; past the end of a row, and of the block, there may be any."""
        row, column = divmod(pixel, self.pitch)
        part, place = divmod(min(row, self.rows * (lanes // self.part) - 1), self.rows)
        column = min(column + column // 7 if self.spaced else column, self.wide * self.part - 1)
        return (place * self.wide + column // self.part) * lanes + part * self.part + column % self.part


def copies(window: Window, x: Halo, size: int) -> Copies:
    """Pixels as they are, for blocks of ``size``: a copy for every tap, but one for taps whole vectors apart."""
    lanes = ALIGN // x.itemsize
    starts = [x.offset(0, phase, shift) for phase, shift in window.taps()]
    runs: list[list[int]] = []
    place: dict[int, tuple[int, int]] = {}
    for start in sorted(set(starts), key=lambda s: (s % lanes, s)):
        last = runs[-1] if runs else None
        if last and last[0] % lanes == start % lanes and start <= last[0] + last[1]:
            last[1] = max(last[1], start - last[0] + size)
        else:
            runs.append([start, size])
        place[start] = (len(runs) - 1, start - runs[-1][0])
    begin = np.cumsum([0, *(length for _, length in runs)]).tolist()
    vectors = [((start + at,), at - (length - size)) for start, length in runs for at in range(0, length, lanes)]
    return Copies(tuple(vectors), (), tuple(begin[place[s][0]] + place[s][1] for s in starts), lanes)


def interleaved_copies(window: Window, x: Halo, how: RowInterleaving) -> Copies:
    """Rows interleaved over the vectors of a block.

    A tap of another row is then another vector, whole: of nine taps the three of a column share their pixels.
    """
    lanes = ALIGN // x.itemsize
    share = lanes // how.part
    shifts: dict[int, list[int]] = {}
    for phase, (depth, height, width) in window.taps():
        shifts.setdefault(x.offset(0, phase, (depth, 0, width)), []).append(height)
    copied: list[tuple[tuple[int, ...], int]] = []
    begin = {}
    for start, heights in shifts.items():
        begin[start] = (len(copied) - min(heights) * how.wide) * lanes
        for first in range(min(heights), max(heights) + how.rows):
            rows = [start + (first + part * how.rows) * how.pitch for part in range(share)]
            copied += [(tuple(row + v * lanes for row in rows), -1) for v in range(how.wide)]
    places = tuple(begin[x.offset(0, phase, (d, 0, w))] + h * how.wide * lanes for phase, (d, h, w) in window.taps())
    spaced = [
        part * how.part + min(7 * (i // 8) + i % 8, how.part - 1) for part in range(share) for i in range(how.part)
    ]
    return Copies(tuple(copied), tuple(spaced) if how.spaced else (), places, lanes)


def interleaving_of_bytes(window: Window, x: Halo, vectors: int, block: Callable[[int], int]) -> RowInterleaving | None:
    """How to interleave the rows of an image of bytes; None where that is no use.

    For images of two to four ``vectors`` with rows of 16 or 32 bytes, all of them at once, and for larger ones with
    rows of 32 or 64 where every eighth byte does not matter.

    Args:
        window: Geometry.
        x: Layout of the input.
        vectors: Vectors of an image.
        block: Takes the usual number of vectors of a block of a larger image, returns the number to use.
    """
    row = x.pitch[1]
    if vectors == 1 or x.dims[0] != 1 or window.kernel[0] != 1:
        return None
    spaced = has_room_for_seven_of_eight(window, x)
    if vectors <= 4:
        return RowInterleaving(vectors, 1, row, row, spaced) if row in (16, 32) else None
    if row not in (32, 64) or not spaced:
        return None
    return RowInterleaving(block(row // 16), 1, row, row, spaced)


def interleaving_of_floats(
    window: Window, x: Halo, most: int, least: int = 1, room: int = 1 << 62
) -> RowInterleaving | None:
    """How to interleave rows of floats; None for volumes and very wide images.

    Args:
        window: Geometry.
        x: Layout of the input.
        most: Vectors of a block at most.
        least: Blocks at least, where there are enough rows.
        room: Elements of an output's plane.
    """
    lanes, (_, height, width) = ALIGN // x.itemsize, window.output(x.dims)
    part = lanes if 2 * width > lanes else lanes // 2
    wide, share = -(-width // lanes), lanes // part
    if x.dims[0] != 1 or window.kernel[0] != 1 or wide > most:
        return None
    blocks = max(-(-height // (most // wide * share)), least)
    # A block's last vector begins inside of it.
    rows = max(-(-height // (blocks * share)), -(-lanes // (share * x.pitch[1])))
    run = x.run((1, height, width))
    # Blocks of rows are no whole vectors: the last one's must not reach the next plane, which is written already.
    while run > (step := rows * share * x.pitch[1]) and run - run % step + -(-(run % step) // lanes) * lanes > room:
        rows += 1
    return RowInterleaving(rows, wide, part, x.pitch[1])


def geometry(
    window: Window, x: Halo, vectors: int, least: int, room: int, knob: Callable[[str, int, Sequence[int]], int]
) -> tuple[Copies, RowInterleaving | None, int] | None:
    """What a panel holds of a channel, how rows are interleaved, and the vectors of a block; None where nothing helps.

    Args:
        window: Geometry.
        x: Layout of the input.
        vectors: Vectors of an image.
        least: Blocks of an image of floats at least, where there are enough rows.
        room: Elements of an output's plane.
        knob: ``knob(name, default, others)`` gives the value of a tuning knob, see
            :meth:`~tvm_schedules.lowering.schedule_config.ScheduleConfigs.knob`.
    """
    if x.dtype == "float32":
        how = interleaving_of_floats(window, x, knob("block", 8, (4, 8, 12, 16)), least, room)
        return (interleaved_copies(window, x, how), how, how.rows * how.wide) if how else None
    how = interleaving_of_bytes(window, x, vectors, lambda usual: knob("block", usual, (1, 2, 4, 7)))
    if how and knob("dealt", 1, (0, 1)):
        return interleaved_copies(window, x, how), how, how.rows
    block = knob("block", min(2, vectors), range(1, min(4, vectors) + 1))
    return copies(window, x, block * (ALIGN // x.itemsize)), None, block


def has_room_for_seven_of_eight(window: Window, x: Halo) -> bool:
    """Whether rows of bytes leave room for a byte that does not matter behind every seven pixels."""
    return x.pitch[1] in (8, 16, 32, 64) and window.output(x.dims)[2] <= x.pitch[1] // 8 * 7
