"""Pooling and elementwise operations as C: ``source/pool_planes.c``, of bytes mostly ``source/pool_bytes.c``.

Bound by loads.
"""

from __future__ import annotations

import numpy as np

from tvm_schedules.backends.c.kernels.common.translation import NULL, Translation, operands, type_words
from tvm_schedules.backends.c.program import SHORT
from tvm_schedules.lowering.epilogue import Epilogue
from tvm_schedules.lowering.rules.pool import NAME, Spec, lower
from tvm_schedules.lowering.steps import Step
from tvm_schedules.packing.pool import divisors

__all__ = ["NAME", "Spec", "emit", "lower"]


MOST_TAPS = 128
"""Pixels of a window whose sum 16 bits hold."""


def emit(t: Translation, index: int, step: Step) -> None:
    """Pooling and elementwise operations (``source/pool_planes.c``, ``source/pool_bytes.c``)."""
    spec, x, ep = step.spec, step.spec.x, step.spec.epilogue
    _, params = t.stored(step.args[1])
    length = x.run(ep.size)
    divided = divisors(x, spec.window, ep.size, length, params["include_pad"])
    inside = divided[x.mask(ep.size, length) > 0]
    average = spec.kind == "average"
    same = not average or not np.ptp(inside)
    taps = np.array([x.offset(0, phase, shift) for phase, shift in spec.window.taps()])
    t.program.reaches(x.phases * x.plane)
    numbers, zeros = t.epilogue_numbers(step.args[2:5]), float(spec.zero * len(taps))
    # A power of two in front of a product with one rounding may as well stand in the factor.
    halves = bool(np.frexp(inside[0])[0] == 0.5) and same and zeros.is_integer()
    bytes_alone = x.dtype == "uint8" and len(taps) > 1 and (not average or len(taps) <= MOST_TAPS)
    shares, sums = bytes_alone and average and not halves, None
    if bytes_alone and not shares:
        sums = np.full(x.channels, 255.0 * len(taps) if average else 255.0)
        numbers["scale"] = (numbers["scale"] * inside[0]).astype(np.float32) if average else numbers["scale"]
    fields = {
        "tap": t.program.array(f"tap_{index}", taps, offsets=True),
        "divisor": NULL if same else t.program.array(f"divisor_{index}", divided),
        "share": inside[0],
        "zeros": zeros,
        "taps": len(taps),
        "images": x.batch,
        "channels": x.channels,
        "plane": x.phases * x.plane,
        "average": average,
        "shares": shares,
        "finish": t.finish(index, x, ep, numbers, sums),
    }
    t.program.need("pool.c")
    residual, out = operands(ep, step.args)
    args = [step.args[0], residual, out]
    if not bytes_alone:
        t.need_finish("f32")
        t.program.need("pool_planes.c", **type_words(x.dtype))
        t.call(index, step, "pool", SHORT[x.dtype], fields, args)
        return
    for source in ("dsp.c", "sum_u8_lanes.c", "sum_u8_dsp.c", "sum_u8_mve.c"):
        t.program.need(source)
    t.need_finish("i16")
    t.program.flag("TERN_SHARES", int(shares))
    if shares:
        t.need_finish("f32")
    t.program.need("pool_bytes.c")
    fields["same"] = not average and _nothing_follows(ep, numbers)
    t.call(index, step, "pool", "bytes_u8", fields, args)


def _nothing_follows(ep: Epilogue, numbers: dict[str, np.ndarray]) -> bool:
    """Whether bytes are stored as they are."""
    _, low, high, _ = numbers["params"]
    plain = ep.residual is None and ep.out.dtype == "uint8"
    return bool(plain and low <= 0 and high >= 255 and (numbers["scale"] == 1).all() and (numbers["bias"] == 0).all())
