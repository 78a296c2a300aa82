"""Average over all pixels of a plane, to a plain ``[N, C]`` tensor of 8-bit or float values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.cpu.kernels.epilogue import MAGIC
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.errors import ModelError
from tvm_schedules.ir.graph import Fused, GlobalPool
from tvm_schedules.ir.layout import Halo
from tvm_schedules.lowering.layouts import home

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["LANES", "Spec", "emit", "lower"]

NAME = "global_pool"
"""What artifacts and tuning databases call this kernel."""

LANES = 16
"""Partial sums, the same on every target, so that float sums are too: pixel ``p`` of a plane goes to ``p % LANES``."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8 or float32.
        out: ``"uint8"`` or ``"float32"``.
        parallel: Whether threads share the jobs.
    """

    x: Halo
    out: str
    parallel: bool

    @property
    def pixels(self) -> int:
        """Elements read from the first pixel on: whole vectors."""
        return -(-self.x.run(self.x.dims) // LANES) * LANES


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, mask, params, out``; ``out = clip(sum * params[0] + params[1], params[2:])``."""
    x, lanes = spec.x, LANES
    f32 = f"float32x{lanes}"

    def body(e: Emitter, *pointers: Any) -> None:
        bx = e.view(pointers[0], x.elements + spec.pixels, x.dtype)
        mask, params = e.view(pointers[1], spec.pixels, "uint8"), e.view(pointers[2], 4, "float32")
        out = e.view(pointers[3], x.batch * x.channels, spec.out)
        with e.jobs(x.batch * x.channels, spec.parallel) as plane:
            acc, single = e.local(lanes, "float32"), e.local(1, "float32")
            e.store(acc, 0, e.const(0.0, f32), lanes)
            with e.loop(spec.pixels // lanes) as i:
                value = e.load(bx, plane * x.plane + x.origin + i * lanes, lanes)
                inside = e.load(mask, i * lanes, lanes)
                if x.dtype == "uint8":
                    value = e.cast(value & inside, f32)
                else:
                    value = e.select(e.nonzero(inside, f"uint8x{lanes}"), value, e.const(0.0, f32))
                e.store(acc, 0, e.load(acc, 0, lanes) + value, lanes)
            e.store(single, 0, e.const(0.0, "float32"))
            with e.loop(lanes) as i:
                e.store(single, 0, e.load(single, 0) + e.load(acc, i))
            y = e.load(single, 0) * e.load(params, 0) + e.load(params, 1)
            y = e.min(e.max(y, e.load(params, 2)), e.load(params, 3))
            if spec.out == "uint8":
                y = e.cast(e.bits(y + e.const(MAGIC, "float32"), "int32"), "uint8")
            e.store(out, plane, y)

    return kernel_function([("x", x.dtype), ("mask", "uint8"), ("params", "float32"), ("out", spec.out)], body)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes averages over all pixels."""
    if not isinstance(node, GlobalPool):
        return False
    if np.ptp(node.scale) or np.ptp(node.bias):
        raise ModelError(f"{node.name!r}: a scale per channel after a global average; fold it into the next layer")
    key = home(ctx.graph, node.inputs[0])
    source, x, quant = ctx.packed(key), ctx.layouts[key], ctx.input_quant(node)
    unit, count = quant.scale * float(node.scale.ravel()[0]), prod(x.dims)
    offset = float(node.bias.ravel()[0]) - quant.zero_point * unit
    numbers = ctx.numbers(node, np.array([unit / count]), np.array([offset]))
    params = np.concatenate([numbers["scale"], numbers["bias"], numbers["params"][1:3]])
    out = ctx.new_plain(node.outputs[0])
    parallel = x.batch * x.channels * count > ctx.serial * 8
    spec = Spec(x, ctx.graph.values[node.outputs[0]].dtype, parallel)
    made = ctx.constants.add(node.name, "raw", {"params": params})
    mask = ctx.constants.add(node.name, "mask", {}, {"x": asdict(x), "size": list(x.dims), "length": spec.pixels})
    args = [source, mask["mask"], made["params"], out]
    ctx.add_step(node, NAME, spec, args, {"reason": "average of all pixels"})
    return True
