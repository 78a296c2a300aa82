"""How a tensor lies in memory: plain, or in halo planes, where every tap of every convolution is one contiguous run.

A halo plane holds one channel of one image. Its padding is part of it, written by the producer, so a kernel never
tests a border. Rows share their padding: the halo to the right of a row is the halo to the left of the next one.
With the pixel ``(d, h, w)`` at ``origin + (d * pitch_h + h) * pitch_w + w``, the input of tap ``t`` for a run of
output pixels ``p, p+1, ...`` is the run that starts at ``origin + offset(t) + p``: one offset serves the whole
image. Columns and rows between the images are computed and masked. A convolution with stride ``s`` reads phases:
plane ``(i, j)`` holds the pixels ``(s*h + i, s*w + j)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil, prod

import numpy as np

__all__ = ["ALIGN", "Halo", "Plain", "Triple", "Window", "spatial3"]

ALIGN = 64
"""Planes start at multiples of this many bytes, the width of the widest vectors and of a cache line."""

Triple = tuple[int, int, int]


def spatial3(values: tuple[int, ...] | list[int], fill: int) -> Triple:
    """Pads a list of one to three spatial numbers on the left, so that 1-D and 2-D windows are 3-D ones.

    >>> spatial3((3, 5), fill=1)
    (1, 3, 5)
    """
    full = (fill,) * (3 - len(values)) + tuple(int(v) for v in values)
    return full[0], full[1], full[2]


@dataclass(frozen=True)
class Plain:
    """Contiguous, in the order of the shape."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """Elements to allocate."""
        return max(1, prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes to allocate."""
        return self.elements * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution or pooling, always in three spatial dimensions (depth, height, width).

    Args:
        kernel: Taps a dimension.
        strides: Steps a dimension.
        pads: Padding before and after, a dimension: ``((d0, d1), (h0, h1), (w0, w1))``.
        dilations: Distance of taps a dimension.
        groups: Channel groups.
    """

    kernel: Triple
    strides: Triple = (1, 1, 1)
    pads: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0), (0, 0))
    dilations: Triple = (1, 1, 1)
    groups: int = 1

    def output(self, dims: Triple) -> Triple:
        """Output size for an input of ``dims`` (floor mode).

        >>> Window((1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1))).output((1, 7, 8))
        (1, 4, 4)
        """
        out = [
            (n + lo + hi - d * (k - 1) - 1) // s + 1
            for n, k, s, (lo, hi), d in zip(dims, self.kernel, self.strides, self.pads, self.dilations, strict=True)
        ]
        return out[0], out[1], out[2]

    def taps(self) -> list[tuple[Triple, Triple]]:
        """For each tap, in the order of the weight's last dimensions: its phase and its shift in that phase's grid."""
        taps = []
        for index in product(*(range(k) for k in self.kernel)):
            at = [i * d - lo for i, d, (lo, _) in zip(index, self.dilations, self.pads, strict=True)]
            phase = tuple(a % s for a, s in zip(at, self.strides, strict=True))
            shift = tuple(a // s for a, s in zip(at, self.strides, strict=True))
            taps.append((phase, shift))
        return taps  # type: ignore[return-value]

    def halo(self, dims: Triple) -> tuple[Triple, Triple]:
        """Halo before and after each dimension of the phase grid that reads of all taps for all output pixels need."""
        out = self.output(dims)
        lo, hi = [], []
        for axis in range(3):
            shifts = [shift[axis] for _, shift in self.taps()]
            size = ceil(dims[axis] / self.strides[axis])
            lo.append(max(0, -min(shifts)))
            hi.append(max(0, max(shifts) + out[axis] - size))
        return (lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2])


@dataclass(frozen=True)
class Halo:
    """Planes with halos. See the module's description.

    Args:
        batch: Images.
        channels: Planes an image (and phase).
        dims: Logical size ``(D, H, W)``.
        dtype: ``"uint8"`` or ``"float32"``.
        pitch: ``(pitch_h, pitch_w)``: rows a depth slice, elements a row, in the phase grid.
        lo: Halo before, in the phase grid.
        hi: Halo after, in the phase grid.
        phase: Strides that the planes are split by.
        fill: What the halo holds: the zero point, or 0; for a maximum, the smallest value.
    """

    batch: int
    channels: int
    dims: Triple
    dtype: str
    pitch: tuple[int, int]
    lo: Triple = (0, 0, 0)
    hi: Triple = (0, 0, 0)
    phase: Triple = (1, 1, 1)
    fill: float = 0.0

    @property
    def itemsize(self) -> int:
        """Bytes an element."""
        return np.dtype(self.dtype).itemsize

    @property
    def grid(self) -> Triple:
        """Size of one phase's grid."""
        d, h, w = (ceil(n / s) for n, s in zip(self.dims, self.phase, strict=True))
        return d, h, w

    def steps(self) -> Triple:
        """Elements between neighbors in depth, height, width."""
        return self.pitch[0] * self.pitch[1], self.pitch[1], 1

    def run(self, out: Triple) -> int:
        """Elements from the first to the last pixel of an output of size ``out`` at this pitch, both included."""
        d, h, w = self.steps()
        return (out[0] - 1) * d + (out[1] - 1) * h + (out[2] - 1) * w + 1

    @property
    def front(self) -> int:
        """Elements of halo before the first pixel."""
        return sum(n * s for n, s in zip(self.lo, self.steps(), strict=True))

    @property
    def origin(self) -> int:
        """Index of the first pixel in a plane; aligned, so that stores and central taps are."""
        align = ALIGN // self.itemsize
        return -(-self.front // align) * align

    @property
    def end(self) -> int:
        """One past the last element of halo, counted from the origin."""
        return self.run(self.grid) + sum(n * s for n, s in zip(self.hi, self.steps(), strict=True))

    @property
    def plane(self) -> int:
        """Elements from one plane to the next; room for whole vectors past the last pixel.

        A kernel that reads bytes stores as many pixels at a time as a vector has bytes, also into float32 planes. It
        must not reach the next plane, which another thread may have written already.
        """
        return self.origin + -(-self.end // ALIGN) * ALIGN

    @property
    def phases(self) -> int:
        """Planes a channel."""
        return prod(self.phase)

    @property
    def elements(self) -> int:
        """Elements to allocate."""
        return self.batch * self.channels * self.phases * self.plane

    @property
    def nbytes(self) -> int:
        """Bytes to allocate."""
        return self.elements * self.itemsize

    @property
    def tail(self) -> int:
        """Bytes at the end of these that are read at most, whatever they hold."""
        return 0

    def offset(self, channel: int, phase: Triple, shift: Triple) -> int:
        """Index of the element that output pixel 0 reads for a tap, in image 0."""
        index = (phase[0] * self.phase[1] + phase[1]) * self.phase[2] + phase[2]
        step = sum(n * s for n, s in zip(shift, self.steps(), strict=True))
        return (channel * self.phases + index) * self.plane + self.origin + step

    def mask(self, out: Triple, length: int) -> np.ndarray:
        """255 for those of the ``length`` elements from the origin on that are pixels of an output of size ``out``."""
        p = np.arange(length)
        d, h, _ = self.steps()
        w_at, h_at, d_at = p % h, (p % d) // h, p // d
        return np.where((w_at < out[2]) & (h_at < out[1]) & (d_at < out[0]), 255, 0).astype(np.uint8)

    def pack(self, x: np.ndarray) -> np.ndarray:
        """Numpy reference: puts ``x [N, C, D, H, W]`` into planes; returns them flat."""
        flat = np.full((self.batch, self.channels, self.phases, self.plane), self.fill, self.dtype)
        d, h, w = (np.arange(n) for n in self.grid)
        sd, sh, sw = self.steps()
        where = self.origin + (d[:, None, None] * sd + h[:, None] * sh + w * sw)
        for index, (i, j, k) in enumerate(product(*(range(s) for s in self.phase))):
            part = x[:, :, i :: self.phase[0], j :: self.phase[1], k :: self.phase[2]]
            flat[:, :, index, where[: part.shape[2], : part.shape[3], : part.shape[4]]] = part
        return flat.ravel()

    def unpack(self, flat: np.ndarray) -> np.ndarray:
        """Numpy reference: the tensor ``[N, C, D, H, W]`` in the planes."""
        planes = flat.reshape(self.batch, self.channels, self.phases, self.plane)
        x = np.zeros((self.batch, self.channels, *self.dims), self.dtype)
        sd, sh, sw = self.steps()
        for index, (i, j, k) in enumerate(product(*(range(s) for s in self.phase))):
            part = x[:, :, i :: self.phase[0], j :: self.phase[1], k :: self.phase[2]]
            d, h, w = (np.arange(n) for n in part.shape[2:])
            x[:, :, i :: self.phase[0], j :: self.phase[1], k :: self.phase[2]] = planes[
                :, :, index, self.origin + (d[:, None, None] * sd + h[:, None] * sh + w * sw)
            ]
        return x
