"""Rule of maximum and average pooling in planes, and of elementwise nodes as windows of one pixel."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from tvm_schedules.ir.graph import Fused, Pool
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.lowering.epilogue import Epilogue, PlanesCall
from tvm_schedules.lowering.layouts import input_key

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "lower"]

NAME = "pool"
"""What artifacts and tuning databases call this kernel."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        kind: ``"max"`` or ``"average"``.
        x: Layout of the input, uint8 or float32.
        window: Geometry.
        zero: The input's zero point, which the halo holds too; an average takes it out.
        vector: Bytes a vector register.
        parallel: Whether threads share the jobs.
        epilogue: What follows the accumulation: scale, bias, residual, clip, rounding.
        plain: Whether the largest bytes are the result as they are, by scales and bounds that change nothing.
        gated: Whether every plane is multiplied by a number of its own.
    """

    kind: Literal["max", "average"]
    x: Halo
    window: Window
    zero: int
    vector: int
    parallel: bool
    epilogue: Epilogue
    plain: bool = False
    gated: bool = False

    @property
    def lanes(self) -> int:
        """Pixels a vector."""
        return self.vector if self.plain else self.vector // 4

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane: whole vectors."""
        return -(-self.x.run(self.epilogue.size) // self.lanes) * self.lanes


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes pooling, and elementwise nodes in planes."""
    if not isinstance(node, Pool) or ctx.layouts.reads_rows(node):
        return False
    key = input_key(ctx.graph, node)
    source, x, quant = ctx.packed(key), ctx.layouts[key], ctx.input_quant(node)
    scale, bias = (np.broadcast_to(a, (x.channels,)).astype(np.float64) for a in (node.scale, node.bias))
    factor = quant.scale * scale
    zero = quant.zero_point if node.kind == "max" and not node.gate else 0
    numbers = ctx.numbers(node, factor, bias - zero * factor)
    end = ctx.destination(node, False, x)
    ep = end.epilogue
    work = x.batch * x.channels * prod(ep.size) * prod(node.window.kernel)
    changes = (
        not np.all(numbers["scale"] == 1) or np.any(numbers["bias"]) or tuple(numbers["params"][:3]) != (0, 0, 255)
    )
    plain = node.gate is None and node.kind == "max" and x.dtype == ep.out.dtype == "uint8" and not changes
    vector = ctx.target.vector_bytes
    spec = Spec(node.kind, x, node.window, quant.zero_point, vector, work > ctx.serial * 8, ep, plain, bool(node.gate))
    params = {"x": asdict(x), "window": asdict(node.window), "size": list(ep.size), "length": spec.pixels}
    made = ctx.constants.add(node.name, "divisor", {}, {**params, "include_pad": node.include_pad})
    window = "x".join(str(k) for k in node.window.kernel if k > 1)
    reason = f"{node.kind} over {window}" if window else "elementwise"
    gate = [ctx.plain(node.gate)] if node.gate else []
    call = PlanesCall(NAME, spec, [source, made["divisor"], *gate], numbers, end, {"reason": reason})
    ctx.add_planes(node, call)
    return True
