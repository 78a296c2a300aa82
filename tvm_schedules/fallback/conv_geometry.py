"""Constant operands rearranged at compile time, and the geometry that convolution and its transpose share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["Geometry", "conv_geometry", "pack_channels", "pack_columns", "transposed_geometry"]


@dataclass(frozen=True)
class Geometry:
    """A convolution of three spatial axes (missing ones have extent 1), or a transposed one written as a convolution.

    A transposed convolution of stride s is an ordinary one that makes all s*s*s phases of the output as channels
    (Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network,
    2016, section 3); the phases are put in their places on the way out.

    Attributes:
        batch, groups: Images; groups of channels.
        inputs, outputs: Channels of one group; outputs count every phase.
        size: Input extents. grid: Extents of the convolution's result. out: Extents of the final output.
        kernel, strides, dilation, begin: Of the convolution; begin is the zero padding before each axis.
        phases: Phases an axis, (1, 1, 1) for an ordinary convolution.
        shift: Output coordinate = grid coordinate * phases + phase + shift.
    """

    batch: int
    groups: int
    inputs: int
    outputs: int
    size: tuple[int, ...]
    grid: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    phases: tuple[int, ...] = (1, 1, 1)
    shift: tuple[int, ...] = (0, 0, 0)

    @property
    def padded(self) -> tuple[int, ...]:
        """Extents of the input that the convolution reads, padding included."""
        spans = zip(self.grid, self.strides, self.kernel, self.dilation, strict=True)
        return tuple((g - 1) * s + (k - 1) * d + 1 for g, s, k, d in spans)

    def to_json(self) -> dict[str, Any]:
        """Plain lists and integers."""
        return asdict(self)

    @classmethod
    def from_json(cls, tag: dict[str, Any]) -> Geometry:
        """The inverse of :meth:`to_json`; other keys are ignored."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in tag.items() if k in cls.__dataclass_fields__
        }
        return cls(**fields)


def _three(values: Any, fill: int) -> tuple[int, ...]:
    values = [int(v) for v in values]
    return (*[fill] * (3 - len(values)), *values)


def conv_geometry(x: list[int], weight: np.ndarray, out: list[int], attrs: Any) -> tuple[Geometry, np.ndarray]:
    """Geometry of ``relax.nn.conv*d`` and its weight as [O, I/groups, D, H, W]."""
    rank, groups = len(x) - 2, int(attrs.groups)
    kernel = _three(weight.shape[2:], 1)
    geometry = Geometry(
        batch=x[0],
        groups=groups,
        inputs=weight.shape[1],
        outputs=weight.shape[0] // groups,
        size=_three(x[2:], 1),
        grid=_three(out[2:], 1),
        out=_three(out[2:], 1),
        kernel=kernel,
        strides=_three(attrs.strides, 1),
        dilation=_three(attrs.dilation, 1),
        begin=_three(list(attrs.padding)[:rank], 0),
    )
    return geometry, weight.reshape(*weight.shape[:2], *kernel)


def transposed_geometry(
    x: list[int], weight: np.ndarray, out: list[int], attrs: Any
) -> tuple[Geometry, np.ndarray] | None:
    """Geometry of ``relax.nn.conv*d_transpose`` (weight [I, O/groups, ...]) as a convolution, and that one's weight.

    Returns:
        None where padding is larger than the kernel, so that the first outputs depend on no input's neighborhood.
    """
    rank, groups = len(x) - 2, int(attrs.groups)
    s, d = _three(attrs.strides, 1), _three(attrs.dilation, 1)
    before = _three(list(attrs.padding)[:rank], 0)
    size, extents = _three(x[2:], 1), _three(out[2:], 1)
    weight = weight.reshape(*weight.shape[:2], *_three(weight.shape[2:], 1))
    if any(v != 1 for v in d):
        dilated = np.zeros(
            (*weight.shape[:2], *((k - 1) * v + 1 for k, v in zip(weight.shape[2:], d, strict=True))), weight.dtype
        )
        dilated[:, :, :: d[0], :: d[1], :: d[2]] = weight
        weight = dilated
    taps = tuple(-(-k // v) for k, v in zip(weight.shape[2:], s, strict=True))
    first = tuple(p // v for p, v in zip(before, s, strict=True))
    last = tuple((n - 1 + p) // v for n, p, v in zip(extents, before, s, strict=True))
    begin = tuple(t - 1 - f for t, f in zip(taps, first, strict=True))
    if min(begin) < 0:
        return None
    i, o = weight.shape[:2]
    full = np.zeros((i, o, *(t * v for t, v in zip(taps, s, strict=True))), weight.dtype)
    full[tuple(slice(0, n) for n in weight.shape)] = weight
    # k = t * s + r, and the convolution runs through t backwards.
    full = full.reshape(i, o, taps[0], s[0], taps[1], s[1], taps[2], s[2])[:, :, ::-1, :, ::-1, :, ::-1, :]
    full = full.reshape(groups, i // groups, o, taps[0], s[0], taps[1], s[1], taps[2], s[2])
    full = full.transpose(0, 2, 4, 6, 8, 1, 3, 5, 7)  # group, o, phases, i, taps
    phases = s[0] * s[1] * s[2]
    geometry = Geometry(
        batch=x[0],
        groups=groups,
        inputs=i // groups,
        outputs=o * phases,
        size=size,
        grid=tuple(b - a + 1 for a, b in zip(first, last, strict=True)),
        out=extents,
        kernel=taps,
        strides=(1, 1, 1),
        dilation=(1, 1, 1),
        begin=begin,
        phases=s,
        shift=tuple(f * v - p for f, v, p in zip(first, s, before, strict=True)),
    )
    return geometry, np.ascontiguousarray(full).reshape(groups * o * phases, i // groups, *taps)


def panel_width(columns: int, lanes: int, vectors: int = 2) -> int:
    """Columns of a packed panel: up to ``vectors`` registers, no more than are needed."""
    return lanes * min(vectors, -(-columns // lanes))


def pack_columns(matrix: np.ndarray, lanes: int) -> tuple[np.ndarray, int]:
    """[K, N] -> [panels, K, width], columns that are missing in the last panel are zero."""
    k, n = matrix.shape
    width = panel_width(n, lanes)
    panels = -(-n // width)
    padded = np.zeros((k, panels * width), matrix.dtype)
    padded[:, :n] = matrix
    return np.ascontiguousarray(padded.reshape(k, panels, width).transpose(1, 0, 2)), width


def pack_channels(weight: np.ndarray, groups: int, lanes: int) -> tuple[np.ndarray, int]:
    """[groups*O, I, D, H, W] -> [groups, panels, D, H, W, I, width]; width 1 where groups are narrow."""
    total, inputs, *kernel = weight.shape
    outputs = total // groups
    width = 1 if 2 * outputs <= lanes else panel_width(outputs, lanes)
    panels = -(-outputs // width)
    padded = np.zeros((groups, panels * width, inputs, *kernel), weight.dtype)
    padded[:, :outputs] = weight.reshape(groups, outputs, inputs, *kernel)
    split = padded.reshape(groups, panels, width, inputs, *kernel)
    return np.ascontiguousarray(split.transpose(0, 1, 4, 5, 6, 3, 2)), width
