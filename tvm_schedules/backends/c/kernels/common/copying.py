"""What a copy between two orders in memory is described by: a ``struct tern_repack`` (``source/repack.c``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_schedules.backends.c.layout import Sampled, Tight
from tvm_schedules.backends.c.program import Ref
from tvm_schedules.ir.layout import Halo

__all__ = ["copy_fields", "filled", "parted_fields"]


def copy_fields(source: Any, target: Any, params: np.ndarray) -> dict[str, Any]:
    """Fields of a copy of a whole tensor.

    Args:
        source: Layout that is read.
        target: Layout that is written.
        params: Scale, zero point and bounds of the 8-bit side, where types differ.
    """
    images, channels, dims = source.batch, source.channels, source.dims
    begin, strides = _strides(source)
    to_begin, to_strides = _strides(target)
    if strides == to_strides and not isinstance(source, Halo) and not isinstance(target, Halo):
        # The same order in memory: one row of everything.
        images, channels, dims, strides, to_strides = 1, 1, (1, 1, source.elements), [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]
    scale, zero, low, high = (float(number) for number in params)
    return {
        "images": images,
        "channels": channels,
        **dict(zip(("depth", "height", "width"), dims, strict=True)),
        "steps": list(target.phase if isinstance(target, Halo) else (1, 1, 1)),
        "from": strides,
        "from_origin": begin,
        "to": to_strides,
        "to_origin": to_begin,
        "to_plane": target.plane if isinstance(target, Halo) else 0,
        **_halo(target),
        "scale": scale,
        "zero_point": zero,
        "low": int(low),
        "high": int(high),
    }


def parted_fields(target: Tight, pitch: tuple[int, int]) -> dict[str, Any]:
    """Fields of a copy of one channel of one image, which has just been computed, into its phases.

    Args:
        target: Layout of the phases.
        pitch: Rows from slice to slice and elements from row to row, as pixels are computed.
    """
    _, to = _strides(target)
    return {
        "images": 1,
        "channels": 1,
        **dict(zip(("depth", "height", "width"), target.dims, strict=True)),
        "steps": list(target.phase),
        "from": [0, 0, pitch[0] * pitch[1], pitch[1], 1],
        "to": to,
        "to_origin": target.origin,
        "to_plane": target.plane,
        **_halo(target),
    }


def filled(layout: Tight) -> tuple[int, int]:
    """The part of a channel that a copy fills before it: its first element, and how many there are."""
    return layout.origin - layout.front, (layout.phases - 1) * layout.plane + layout.front + layout.end


def _halo(target: Any) -> dict[str, Any]:
    if not isinstance(target, Tight):
        return {}
    first, elements = filled(target)
    return {"to_fill": first, "to_elements": elements, "fill": Ref(f"{np.float32(target.fill)!s}f")}


def _strides(layout: Any) -> tuple[int, list[int]]:
    """The first pixel, and the elements between neighbors in each of five dimensions."""
    if isinstance(layout, Sampled):
        return layout.source.origin, layout.strides
    if isinstance(layout, Halo):
        per_channel = layout.phases * layout.plane
        return layout.origin, [layout.channels * per_channel, per_channel, *layout.steps()]
    return 0, list(layout.strides)
