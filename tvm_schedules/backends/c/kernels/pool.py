"""Pooling and elementwise operations as C (``source/pool_planes.c``).

Bound by loads.
"""

from __future__ import annotations

import numpy as np

from tvm_schedules.backends.c.kernels.common.translation import NULL, Translation, operands, type_words
from tvm_schedules.backends.c.program import SHORT
from tvm_schedules.lowering.rules.pool import NAME, Spec, lower
from tvm_schedules.lowering.steps import Step
from tvm_schedules.packing.pool import divisors

__all__ = ["NAME", "Spec", "emit", "lower"]


def emit(t: Translation, index: int, step: Step) -> None:
    """Pooling and elementwise operations (``source/pool_planes.c``)."""
    spec, x, ep = step.spec, step.spec.x, step.spec.epilogue
    _, params = t.stored(step.args[1])
    length = x.run(ep.size)
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
        "finish": t.finish(index, x, ep, t.epilogue_numbers(step.args[2:5])),
    }
    t.need_finish("f32")
    t.program.need("pool.c")
    t.program.need("pool_planes.c", **type_words(x.dtype))
    residual, out = operands(ep, step.args)
    t.call(index, step, "pool", SHORT[x.dtype], fields, [step.args[0], residual, out])
