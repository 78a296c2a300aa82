"""Dense 8-bit convolution on Arm's cores without dot products: products of bytes, added up in 16 bits.

A panel has 16 channels side by side, see :mod:`.common.dense_panel`. Both factors are signed: pixels enter minus 128,
and the bias makes up for it. 16 bits hold the sum of two products, which one instruction multiplies and adds; a third
one adds pairs of these sums up in 32 bits.

Applies to 8-bit activations with 8-bit weights other than -128. Bound by products.
"""

from __future__ import annotations

from dataclasses import asdict
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from tvm_schedules.backends.cpu.kernels.common.dense_panel import Spec, emit, panel_of, panel_params
from tvm_schedules.backends.cpu.kernels.common.dot_product import available
from tvm_schedules.ir.graph import DenseWeight, Fused, Windowed
from tvm_schedules.lowering.epilogue import PlanesCall
from tvm_schedules.lowering.layouts import input_key

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "dense_widened"
"""What artifacts and tuning databases call this kernel."""

BYTES = 16
"""Channels side by side."""
LEAST_TAPS = 8
"""Products a sum at least, or most of a register is empty."""
MOST_TAPS = 1 << 16
"""Products a sum at most: 32 bits hold the sum of so many."""


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes convolutions of bytes with 8-bit weights, but -128, on Arm where there are no dot products."""
    if not ctx.target.arm64 or available(ctx.target) is not None or not isinstance(node, Windowed):
        return False
    weight, window = node.weight, node.window
    if not isinstance(weight, DenseWeight) or ctx.graph.values[node.inputs[0]].dtype != "uint8":
        return False
    values, key = weight.values, input_key(ctx.graph, node)
    if values.dtype != np.int8 or values.min(initial=0) == -128:  # 16 bits do not hold two products of it
        return False
    x, rows, taps = ctx.layouts[key], len(values), prod(values.shape[1:])
    enough = rows // window.groups >= 4 and taps >= LEAST_TAPS
    if taps > MOST_TAPS or not ctx.configs.selects(node.name, NAME, enough):
        return False
    macs = values.size * x.batch * prod(window.output(x.dims))
    parallel = macs > ctx.serial * 16
    panel, band = panel_of(ctx, node.name, x, window, rows, BYTES, parallel)
    source, quant = ctx.packed(key), ctx.input_quant(node)
    factor = weight.scale.astype(np.float64) * quant.scale * node.scale
    sums = values.reshape(rows, -1).astype(np.float64).sum(1)
    numbers = ctx.numbers(node, factor, node.bias - (quant.zero_point - 128) * factor * sums)
    geometry = {"window": asdict(window), "x": asdict(x)}
    made = ctx.constants.add(node.name, "dense_panel", {"values": values}, {**geometry, **panel_params(panel, band)})
    end = ctx.destination(node, False, x)
    spec = Spec(x, window, rows, BYTES, None, panel.shared, band, parallel, end.epilogue)
    reason = "dense int8 weight, sums of two products in 16 bits"
    info = {"macs": macs, "nonzero_macs": macs, "bytes_weights": values.nbytes, "reason": reason}
    ctx.report(node, weight, NAME, reason)
    inputs = [source, *(made[name] for name in ("values", "steps", "streams"))]
    ctx.add_planes(node, PlanesCall(NAME, spec, inputs, numbers, end, info))
    return True
