"""Rule of linear layers over plain rows, output channels side by side."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.ir.graph import Fused, Linear
from tvm_schedules.ir.ternary_tensor import TernaryTensor

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "lower"]

NAME = "linear"
"""What artifacts and tuning databases call this kernel."""

MOST_ROWS = 6
"""Rows of a tile at most."""

ONE_ROW = 8
"""Vectors of output channels of a tile of one row at most: as many sums do not wait for each other."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        batch: Rows M.
        inputs: Inputs K.
        outputs: Output channels O.
        x: ``"uint8"`` or ``"float32"``.
        weights: ``"int8"`` or ``"float32"``.
        exact: Sum in integers (8-bit activations and ternary codes).
        out: ``"uint8"`` or ``"float32"``.
        residual: Type of a residual ``[M, O]``, or None.
        vector: Bytes a vector register.
        parallel: Whether threads share the jobs.
        fma: Whether the target has a fused multiply-add.
    """

    batch: int
    inputs: int
    outputs: int
    x: str
    weights: str
    exact: bool
    out: str
    residual: str | None
    vector: int
    parallel: bool
    fma: bool

    @property
    def lanes(self) -> int:
        """Output channels a vector."""
        return self.vector // (2 if self.exact else 4)

    @property
    def tiling(self) -> tuple[int, int]:
        """Rows and vectors of a tile, whose sums are in registers with what one input needs."""
        total = -(-self.outputs // self.lanes)
        if self.exact:
            return 1, 1
        if self.batch == 1:
            return 1, -(-total // -(-total // ONE_ROW))
        return -(-self.batch // -(-self.batch // MOST_ROWS)), min(4 if self.vector == 64 else 2, total)

    @property
    def width(self) -> int:
        """Output channels of a tile."""
        return self.lanes * self.tiling[1]

    @property
    def padded(self) -> int:
        """Output channels rounded up to whole tiles."""
        return -(-self.outputs // self.width) * self.width


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes linear layers (those that work in planes do not take)."""
    if not isinstance(node, Linear) or node.weight is None:
        return False
    weight, x = node.weight, ctx.graph.values[node.inputs[0]]
    source, quant = ctx.plain(node.inputs[0]), ctx.input_quant(node)
    batch, inputs, exact = prod(x.shape[:-1]), x.shape[-1], False
    arrays: dict[str, np.ndarray]
    params: dict[str, Any] = {}
    if isinstance(weight, TernaryTensor):
        full, outputs = weight.per_channel, weight.channels
        simple = weight.terms == 1 and weight.is_symmetric
        exact, dtype = simple and x.dtype == "uint8", "int8" if simple else "float32"
        level = full.positive[0].astype(np.float64) if simple else np.ones(outputs)
        values = weight.codes[0] if simple else weight.dequantize()
        arrays = weight.stored
        params = {"shape": list(weight.codes.shape)}
        nonzero, stored = round(batch * weight.codes[0].size * (1 - weight.sparsity())), weight.nbytes()
    else:
        values, outputs = weight.values, weight.values.shape[0]
        level, dtype = weight.scale.astype(np.float64), values.dtype.name
        arrays, nonzero, stored = {"values": values}, batch * values.size, values.nbytes
    macs = batch * inputs * outputs
    unit = level * quant.scale * node.scale
    numbers = ctx.numbers(node, unit, node.bias - quant.zero_point * unit * values.astype(np.float64).sum(1))
    residual = ctx.graph.values[node.residual].dtype if node.residual else None
    out_dtype, vector = ctx.graph.values[node.outputs[0]].dtype, ctx.target.vector_bytes
    parallel = macs > ctx.serial * 8
    spec = Spec(batch, inputs, outputs, x.dtype, dtype, exact, out_dtype, residual, vector, parallel, ctx.fma)
    for name in ("scale", "bias"):
        numbers[name] = np.pad(numbers[name], (0, spec.padded - outputs))
    # On a CPU a tile reads its weights in one go; on others the threads of all tiles read side by side.
    params |= {"width": spec.width} if ctx.target.tvm["kind"] == "llvm" else {}
    made = ctx.constants.add(node.name, "linear", arrays, {**params, "dtype": dtype, "padded": spec.padded})
    numeric = ctx.constants.add(node.name, "raw", numbers)
    residuals = [ctx.plain(node.residual)] if node.residual else []
    args = [source, made["values"], numeric["scale"], numeric["bias"], numeric["params"], *residuals]
    reason = f"{batch} row{'s' * (batch > 1)}, output channels in the lanes, weights as {dtype}"
    ctx.report(node, weight, NAME, reason)
    # Zeros are read and multiplied like all others.
    info = {"macs": macs, "nonzero_macs": nonzero, "work": macs, "bytes_weights": stored, "reason": reason}
    ctx.add_step(node, NAME, spec, [*args, ctx.new_plain(node.outputs[0])], info)
    return True
