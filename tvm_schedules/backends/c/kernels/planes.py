"""Layers without weights as C: pooling, and copies between layouts."""

from __future__ import annotations

import numpy as np

from tvm_schedules.backends.c.kernels.translation import NULL, Translation, operands, strides_of, type_words
from tvm_schedules.backends.c.layout import Tight
from tvm_schedules.backends.c.program import CTYPES, SHORT, Ref
from tvm_schedules.ir.layout import Halo
from tvm_schedules.lowering.steps import Step
from tvm_schedules.packing.pool import divisors

__all__ = ["global_pool", "pool", "repack", "repack_kernel"]


def pool(t: Translation, index: int, step: Step) -> None:
    """Pooling and elementwise operations (``source/pool_planes.c``)."""
    spec, x, ep = step.spec, step.spec.x, step.spec.epilogue
    _, params = t.stored(step.args[1])
    length = ep.out.run(ep.size)
    shares = divisors(x, spec.window, ep.size, length, params["include_pad"])
    inside = shares[x.mask(ep.size, length) > 0]
    same = spec.kind == "max" or not np.ptp(inside)
    taps = np.array([x.offset(0, phase, shift) for phase, shift in spec.window.taps()])
    t.program.reaches(x.phases * x.plane)
    fields = {
        "tap": t.program.array(f"tap_{index}", taps, offsets=True),
        "divisor": NULL if same else t.program.array(f"divisor_{index}", shares),
        "share": inside[0],
        "zeros": float(spec.zero * len(taps)),
        "taps": len(taps),
        "images": x.batch,
        "channels": x.channels,
        "plane": x.phases * x.plane,
        "average": spec.kind == "average",
        "finish": t.finish(index, ep, t.epilogue_numbers(step.args[2:5])),
    }
    t.program.need("pool.c")
    t.program.need("pool_planes.c", **type_words(x.dtype))
    residual, out = operands(ep, step.args)
    t.call(index, step, "pool", SHORT[x.dtype], fields, [step.args[0], residual, out])


def global_pool(t: Translation, index: int, step: Step) -> None:
    """The average of a plane (``source/global_pool_planes.c``)."""
    spec, x = step.spec, step.spec.x
    scale, bias, low, high = t.stored(step.args[2])[0]["params"]
    steps = x.steps()
    fields = {"scale": scale, "bias": bias, "low": low, "high": high}
    fields |= {"planes": x.batch * x.channels, "plane": x.plane, "origin": x.origin}
    fields |= dict(zip(("depth", "height", "width"), x.dims, strict=True))
    fields |= {"slice": steps[0], "row": steps[1], "output_float": spec.out == "float32"}
    words = {"SUM": "int32_t" if x.dtype == "uint8" else "float"}
    t.program.need("global_pool.c")
    t.program.need("global_pool_planes.c", **type_words(x.dtype), **words)
    t.call(index, step, "global_pool", SHORT[x.dtype], fields, [step.args[0], step.args[3]])


def repack(t: Translation, index: int, step: Step) -> None:
    """A copy into another layout or type (``source/repack_from_to.c``)."""
    source, target = step.spec.source, step.spec.target
    scale, zero, low, high = t.stored(step.args[1])[0]["params"]
    phase = target.phase if isinstance(target, Halo) else (1, 1, 1)
    begin, strides = strides_of(source)
    to_begin, to_strides = strides_of(target)
    fields = {
        "images": source.batch,
        "channels": source.channels,
        **dict(zip(("depth", "height", "width"), source.dims, strict=True)),
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
    function = repack_kernel(t, source.dtype, target.dtype)
    t.call(index, step, "repack", function, fields, [step.args[0], step.args[2]])
    if source.dtype != target.dtype:
        t.program.calls[-1].quant = (float(scale), int(zero))


def repack_kernel(t: Translation, source: str, target: str) -> str:
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
