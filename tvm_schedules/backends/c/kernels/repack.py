"""Copies into another layout or type as C (``source/repack_from_to.c``).

Bound by reading and writing memory.
"""

from __future__ import annotations

import numpy as np

from tvm_schedules.backends.c.kernels.common.translation import Translation, strides_of
from tvm_schedules.backends.c.layout import Tight
from tvm_schedules.backends.c.program import CTYPES, SHORT, Ref
from tvm_schedules.ir.layout import Halo
from tvm_schedules.lowering.rules.repack import NAME, Spec
from tvm_schedules.lowering.steps import Step

__all__ = ["NAME", "Spec", "emit", "function_suffix"]


def emit(t: Translation, index: int, step: Step) -> None:
    """A copy into another layout or type (``source/repack_from_to.c``)."""
    source, target = step.spec.source, step.spec.target
    scale, zero, low, high = t.stored(step.args[1])[0]["params"]
    phase = target.phase if isinstance(target, Halo) else (1, 1, 1)
    begin, strides = strides_of(source)
    to_begin, to_strides = strides_of(target)
    images, channels, dims = source.batch, source.channels, source.dims
    if strides == to_strides and not isinstance(source, Halo) and not isinstance(target, Halo):
        # The same order in memory: one row of everything.
        images, channels, dims, strides, to_strides = 1, 1, (1, 1, source.elements), [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]
    fields = {
        "images": images,
        "channels": channels,
        **dict(zip(("depth", "height", "width"), dims, strict=True)),
        "steps": list(phase),
        "from": strides,
        "from_origin": begin,
        "to": to_strides,
        "to_origin": to_begin,
        "to_plane": target.plane if isinstance(target, Halo) else 0,
        "to_elements": target.used if isinstance(target, Tight) else 0,
        "fill": Ref(f"{np.float32(target.fill)!s}f") if isinstance(target, Halo) else 0.0,
        "scale": scale,
        "zero_point": zero,
        "low": int(low),
        "high": int(high),
    }
    function = function_suffix(t, source.dtype, target.dtype)
    t.call(index, step, "repack", function, fields, [step.args[0], step.args[2]])
    if source.dtype != target.dtype:
        t.program.calls[-1].quant = (float(scale), int(zero))


def function_suffix(t: Translation, source: str, target: str) -> str:
    """Asks for the copy between two types; returns how its function's name ends."""
    convert = {
        ("float32", "uint8"): "tern_quantize(\\1, l->scale, l->zero_point, l->low, l->high)",
        ("uint8", "float32"): "((float)\\1 - l->zero_point) * l->scale",
    }.get((source, target), "\\1")
    if target == "uint8" and source == "float32":
        t.program.need("quantize.c")
    t.program.need("repack.c")
    words = {"X": SHORT[source], "XTYPE": CTYPES[source], "Y": SHORT[target], "YTYPE": CTYPES[target]}
    t.program.need("repack_from_to.c", **words, CONVERT=convert)
    return f"{SHORT[source]}_{SHORT[target]}"
