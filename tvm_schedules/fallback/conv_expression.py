"""What a packed convolution computes, as one tensor expression: the body that the fallback schedules."""

from __future__ import annotations

from typing import Any

from tvm_schedules.fallback.conv_geometry import Geometry

__all__ = ["convolution"]


def convolution(data: Any, kernel: Any, g: Geometry, width: int) -> Any:
    """Convolution or transposed convolution of ``data`` [N, C, ...].

    Args:
        data: The input.
        kernel: Of :func:`~tvm_schedules.fallback.conv_geometry.pack_channels`.
        g: What is convolved how.
        width: Channels side by side in ``kernel``.
    """
    from tvm import te, tirx

    rank = len(data.shape) - 2
    phases = g.phases[0] * g.phases[1] * g.phases[2]
    channels = g.groups * g.outputs // phases

    def padded(n: Any, c: Any, *at: Any) -> Any:
        source = [a - b for a, b in zip(at, g.begin, strict=True)]
        inside = [tirx.all(s >= 0, s < size) for s, size in zip(source, g.size, strict=True)]
        return tirx.if_then_else(tirx.all(*inside), data(n, c, *source[3 - rank :]), tirx.const(0.0, "float32"))

    pad = te.compute((g.batch, g.groups * g.inputs, *g.padded), padded, name="pad")
    axes = [te.reduce_axis((0, n), name=f"r{i}") for i, n in enumerate((g.inputs, *g.kernel))]

    def result(n: Any, c: Any, *spatial: Any) -> Any:
        at = [*[tirx.const(0, "int64")] * (3 - rank), *spatial]
        moved = [a - s for a, s in zip(at, g.shift, strict=True)]
        grid = [m // p for m, p in zip(moved, g.phases, strict=True)]
        phase: Any = 0
        for m, p in zip(moved, g.phases, strict=True):
            phase = phase * p + m % p
        channel = c * phases + phase
        group, local = channel // g.outputs, channel % g.outputs
        where = [q * s + r * d for q, s, r, d in zip(grid, g.strides, axes[1:], g.dilation, strict=True)]
        value = pad(n, group * g.inputs + axes[0], *where)
        return te.sum(value * kernel(group, local // width, *axes[1:], axes[0], local % width), axis=axes)

    return te.compute((g.batch, channels, *g.out[3 - rank :]), result, name="conv")
