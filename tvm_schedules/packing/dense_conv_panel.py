"""Weights of 8-bit convolutions over a panel of pixels, several channels side by side (numpy; runs at load).

The panel holds streams: of one run of pixels the bytes of a few input channels, pixel after pixel. A tap reads a stream
from the pixel on that it is shifted by, so taps of one phase share the streams of their channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from tvm_schedules.ir.layout import Halo, Window

__all__ = ["Panel", "pack"]

WIDENED = 16
"""Bytes side by side where there are no dot products."""
WIDEST = 5
"""Neighboring taps that are one step at most."""


@dataclass(frozen=True)
class Panel:
    """What of the input stands where in the panel.

    Args:
        x: Layout of the input.
        window: Geometry.
        bytes_: Bytes side by side: channels of a stream.
        shared: Whether a stream holds channels, for all taps of a phase; else each holds the taps of its own step,
            which wastes none where channels are few.
    """

    x: Halo
    window: Window
    bytes_: int
    shared: bool

    @property
    def fan(self) -> int:
        """Input channels a group."""
        return self.x.channels // self.window.groups

    @property
    def _first(self) -> int:
        """The smallest shift of a tap, in pixels."""
        return min(self._shift(shift) for _, shift in self.window.taps())

    def _shift(self, shift: tuple[int, int, int]) -> int:
        return sum(n * s for n, s in zip(shift, self.x.steps(), strict=True))

    @property
    def reach(self) -> int:
        """Pixels of a stream past those of the output."""
        return max(self._shift(s) for _, s in self.window.taps()) - self._first if self.shared else 0

    @cached_property
    def members(self) -> list[list[tuple[int, int]]]:
        """For every step of one pixel: what its bytes are multiplied by, input channel and tap; may be short."""
        size, taps = self.bytes_, len(self.window.taps())
        if self.shared:
            groups = [range(c, min(c + size, self.fan)) for c in range(0, self.fan, size)]
            return [[(c, tap) for c in group] for group in groups for tap in range(taps)]
        every = [(c, tap) for c in range(self.fan) for tap in range(taps)]
        return [every[i : i + size] for i in range(0, len(every), size)]

    @cached_property
    def _places(self) -> list[tuple[int, int, list[int]]]:
        """For every step of one pixel: its stream, its shift there, and where the stream's bytes begin in the input."""
        taps, streams, found = self.window.taps(), dict[tuple[int, ...], int](), []
        for members in self.members:
            shift = self._shift(taps[members[0][1]][1]) - self._first if self.shared else 0
            offsets = [self.x.offset(c, *taps[tap]) - shift for c, tap in members]
            offsets += offsets[:1] * (self.bytes_ - len(offsets))
            found.append((streams.setdefault(tuple(offsets), len(streams)), shift, offsets))
        return found

    @cached_property
    def streams(self) -> list[list[int]]:
        """Where every stream's bytes begin, in a group of the first image."""
        return list({stream: offsets for stream, _, offsets in self._places}.values())

    @cached_property
    def steps(self) -> list[tuple[int, int, list[int]]]:
        """Stream, shift of the first tap, and indices in :attr:`members` of neighboring taps; wide steps first."""
        order = sorted(range(len(self._places)), key=lambda i: self._places[i][:2])
        found: list[tuple[int, int, list[int]]] = []
        for i in order:
            stream, shift, _ = self._places[i]
            if found:
                last, first, taps = found[-1]
                if last == stream and first + len(taps) == shift and len(taps) < WIDEST:
                    taps.append(i)
                    continue
            found.append((stream, shift, [i]))
        return sorted(found, key=lambda step: -len(step[2]))

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """Taps a step, and how many such steps follow each other."""
        sizes = [len(taps) for _, _, taps in self.steps]
        return tuple((size, sizes.count(size)) for size in dict.fromkeys(sizes))

    @property
    def uniform(self) -> bool:
        """Whether every step has one tap and a stream of its own, from its beginning on."""
        return self.steps == [(i, 0, [i]) for i in range(len(self.streams))]

    def work(self, rows: int) -> float:
        """Instructions for 16 pixels of so many output channels, about: products, and filling the panel."""
        step = 52.0 if self.bytes_ == WIDENED else 4.8 * 4 / self.bytes_
        return len(self.members) * rows * step + len(self.streams) * 5.5 * self.bytes_

    @classmethod
    def best(cls, x: Halo, window: Window, bytes_: int, rows: int) -> Panel:
        """The one with less work for so many output channels a group."""
        return min((cls(x, window, bytes_, shared) for shared in (True, False)), key=lambda panel: panel.work(rows))


def pack(values: np.ndarray, panel: Panel, length: int, tile: int) -> dict[str, np.ndarray]:
    """Lays int8 weights ``[O, C / groups, kd, kh, kw]`` out by blocks of output channels.

    Args:
        values: The weights.
        panel: What is read.
        length: Pixels of a stream.
        tile: Output channels a block; the last block has the rest of them, in fours.

    Returns:
        ``values`` int8, by group, block, step, tap, output channel and byte; ``steps`` int32, where each step begins in
        the panel; ``streams`` int32, where each byte of a stream begins in the input.
    """
    groups, size = panel.window.groups, panel.bytes_
    per_group = values.shape[0] // groups
    flat = values.reshape(groups, per_group, panel.fan, prod(values.shape[2:]))
    full = np.zeros((groups, -(-per_group // 4) * 4, len(panel.members), size), np.int8)
    order = [i for _, _, taps in panel.steps for i in taps]
    for place, i in enumerate(order):
        for byte, (c, tap) in enumerate(panel.members[i]):
            full[:, :per_group, place, byte] = flat[:, :, c, tap]
    blocks = [full[:, at : at + tile].transpose(0, 2, 1, 3) for at in range(0, full.shape[1], tile)]
    laid = np.concatenate([block.reshape(groups, -1) for block in blocks], 1)
    steps = [(stream * length + shift) * size for stream, shift, _ in panel.steps]
    return {
        "values": np.ascontiguousarray(laid),
        "steps": np.array(steps, np.int32),
        "streams": np.array(panel.streams, np.int32),
    }
