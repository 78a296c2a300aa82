"""Rule of the average over all pixels of a plane."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from tvm_schedules.errors import ModelError
from tvm_schedules.ir.graph import Fused, GlobalPool
from tvm_schedules.ir.layout import Halo
from tvm_schedules.lowering.layouts import home

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "PARTIAL_SUMS", "Spec", "lower"]

NAME = "global_pool"
"""What artifacts and tuning databases call this kernel."""

PARTIAL_SUMS = 16
"""Partial sums, as many on every target, so that float sums are the same: pixel ``p`` goes to ``p`` modulo this."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8 or float32.
        out: ``"uint8"`` or ``"float32"``.
        parallel: Whether threads share the jobs.
        arch: Architecture whose instructions may be called by name: ``aarch64``, ``x86_64``, others are as none.
        wide: Bytes that one instruction adds up, where there is such a one.
    """

    x: Halo
    out: str
    parallel: bool
    arch: str = ""
    wide: int = 16

    @property
    def pixels(self) -> int:
        """Elements read from the first pixel on: whole vectors."""
        return -(-self.x.run(self.x.dims) // PARTIAL_SUMS) * PARTIAL_SUMS


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
    wide = 32 if ctx.target.vector_bytes >= 32 and "avx2" in ctx.target.features else 16
    spec = Spec(x, ctx.graph.values[node.outputs[0]].dtype, parallel, ctx.target.architecture, wide)
    made = ctx.constants.add(node.name, "raw", {"params": params})
    mask = ctx.constants.add(node.name, "mask", {}, {"x": asdict(x), "size": list(x.dims), "length": spec.pixels})
    args = [source, mask["mask"], made["params"], out]
    ctx.add_step(node, NAME, spec, args, {"reason": "average of all pixels"})
    return True
