"""Dense 8-bit convolution with Arm's dot products of one element of a vector, or products of small matrices (i8mm).

Dot products take weights of four channels from one register and a pixel of the panel from an element of another, so
neighboring taps share the pixels that are loaded: see :mod:`.common.dense_panel`.

Applies to 8-bit activations with 8-bit weights, or ternary ones with too few zeros to skip. Bound by dot products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm_schedules.backends.cpu.kernels.common.dense_panel import Spec, emit, panel_of, panel_params
from tvm_schedules.backends.cpu.kernels.common.dot_layer import DotLayer
from tvm_schedules.ir.graph import Fused
from tvm_schedules.lowering.epilogue import Epilogue

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "dense_panel"
"""What artifacts and tuning databases call this kernel."""


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes 8-bit convolutions with 8-bit weights, and with ternary ones that have too few zeros for adding up taps."""
    layer = DotLayer.take(ctx, node, NAME, lambda layer: True)
    if layer is None or not layer.dot.arm:
        return False
    x, window, rows, parallel = layer.x, layer.window, layer.rows, layer.parallel
    size = 8 if "i8mm" in ctx.target.features else 4
    panel, band = panel_of(ctx, node.name, x, window, rows, size, parallel)

    def spec(ep: Epilogue) -> Spec:
        return Spec(x, window, rows, size, layer.dot, panel.shared, band, parallel, ep)

    layer.finish(NAME, panel_params(panel, band), spec, "", "dense_panel", ("values", "steps", "streams"))
    return True
