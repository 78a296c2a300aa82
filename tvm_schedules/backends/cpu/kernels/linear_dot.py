"""Linear layers over few rows of 8-bit activations, with dot products; ternary weights stay packed in two bits.

A byte holds the codes of four inputs that are four apart, so that a vector of packed bytes gives four vectors of codes
for the dot product. With signed pixels they are shifted and sign-extended. With unsigned ones a mask is enough: each of
the four places of two bits has a sum of its own, of codes times 1, 4, 16 and 64. The highest place has the byte's sign;
in the others codes are stored plus one, and the sum of these inputs' pixels is taken off at the end.

Bound by reading the weights, which is why they stay packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.cpu.kernels.common.dot_product import Dot, available
from tvm_schedules.backends.cpu.kernels.common.linear_end import finish_outputs
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused, Linear
from tvm_schedules.ir.layout import ALIGN
from tvm_schedules.ir.ternary_tensor import TernaryTensor

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "linear_dot"
"""What artifacts and tuning databases call this kernel."""


BYTES_AHEAD = {True: 1 << 12, False: 1 << 14}
"""How many bytes ahead weights, packed ones and others, are fetched where a vector is a cache line: from far away."""

MANY_ROWS = 4
"""Rows from which several at a time use a vector of weights."""

MOST_ROWS = {4: 4, 8: 2, 16: 6}
"""Rows a register block by lanes: with four vectors of channels, their sums leave registers for weights and pixels."""

MOST_INPUTS = 1 << 18
"""Inputs at most: 32-bit sums of 8-bit pixels times 64 hold more."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        batch: Rows M.
        inputs: Inputs K.
        outputs: Output channels O.
        ternary: Whether the weights are packed codes, else int8.
        dot: The dot product.
        out: ``"uint8"`` or ``"float32"``.
        tile: Vectors of output channels a register block.
        parallel: Whether threads share the jobs.
        fma: Whether the target has a fused multiply-add.
        residual: Type of a residual ``[M, O]``, or None.
        rows: Rows a register block; with 8-bit weights alone.
    """

    batch: int
    inputs: int
    outputs: int
    ternary: bool
    dot: Dot
    out: str
    tile: int
    parallel: bool
    fma: bool
    residual: str | None = None
    rows: int = 1

    @property
    def step(self) -> int:
        """Inputs a vector of weights covers."""
        return 16 if self.ternary else 4

    @property
    def masked(self) -> bool:
        """Whether masks take packed codes apart."""
        return self.ternary and not self.dot.signed

    @property
    def steps(self) -> int:
        """Vectors of weights of one block of output channels."""
        return -(-self.inputs // self.step)

    @property
    def blocks(self) -> int:
        """Register blocks of output channels."""
        return -(-self.outputs // (self.dot.lanes * self.tile))

    @property
    def padded(self) -> int:
        """Output channels rounded up to whole register blocks."""
        return self.blocks * self.dot.lanes * self.tile


def _codes(e: Emitter, spec: Spec, packed: Any, part: int) -> Any:
    """The weights of four inputs from a vector of packed ones: sign-extended, or masked out in their place."""
    u8, i8 = (f"{kind}x{4 * spec.dot.lanes}" for kind in ("uint8", "int8"))
    if not spec.ternary:
        return packed
    if spec.masked:
        return packed & e.const(3 << 2 * part, u8)
    return e.bits(e.bits(packed << e.const(6 - 2 * part, u8), i8) >> e.const(6, i8), u8)


def _total(e: Emitter, spec: Spec, x: Any, m: Any) -> Any:
    """The sum of a row's pixels whose codes count one too much."""
    dot, lanes, K = spec.dot, spec.dot.lanes, spec.inputs
    size, i32 = 4 * lanes, f"int32x{lanes}"
    acc, single = e.local(lanes, "int32"), e.local(1, "int32")
    e.store(acc, 0, e.const(0, i32), lanes)
    e.store(single, 0, e.integer(0))
    which = [i if i % 16 < 12 else size + i for i in range(size)]
    ones = e.shuffle([e.const(1, f"int8x{size}"), e.const(0, f"int8x{size}")], which)
    with e.loop(K // size) as k:
        e.store(acc, 0, dot(e, e.load(acc, 0, lanes), e.load(x, m * K + k * size, size), ones), lanes)
    with e.loop(lanes) as i:
        e.store(single, 0, e.load(single, 0) + e.load(acc, i))
    with e.loop(K % size) as k, e.when(k % 16 < 12):
        e.store(single, 0, e.load(single, 0) + e.cast(e.load(x, m * K + K // size * size + k), "int32"))
    return e.load(single, 0)


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, values, scale, bias, params, [residual,] out`` (scale, bias of whole blocks)."""
    dot, lanes, tile, K, O = spec.dot, spec.dot.lanes, spec.tile, spec.inputs, spec.outputs  # noqa: E741
    size, i32, f32 = 4 * lanes, f"int32x{lanes}", f"float32x{lanes}"
    u8 = f"uint8x{size}"
    parts = spec.step // 4

    masked = spec.masked

    def body(e: Emitter, *pointers: Any) -> None:
        # Up to one step of inputs past the end is read; weights there are zero.
        x = e.view(pointers[0], spec.batch * K + 16, "uint8")
        values = e.view(pointers[1], spec.blocks * spec.steps * tile * size, "uint8")
        scale, bias = (e.view(p, spec.padded, "float32") for p in pointers[2:4])
        params, out = e.view(pointers[4], 4, "float32"), e.view(pointers[-1], spec.batch * O, spec.out)
        residual = e.view(pointers[5], spec.batch * O, spec.residual) if spec.residual else None

        views = {"scale": scale, "bias": bias, "params": params, "residual": residual, "out": out}

        def finish(value: Any, m: Any, first: Any) -> None:
            finish_outputs(e, spec, lanes, views, value, m, first)

        rows = spec.rows
        with e.jobs(-(-spec.batch // rows) * spec.blocks, spec.parallel) as job:
            m, block = job // spec.blocks, job % spec.blocks
            if rows > 1:  # the last rows are computed twice where the number is no multiple
                m = e.min(m * rows, e.integer(spec.batch - rows))
            sums = parts if masked else 1
            acc = [[[e.local(lanes, "int32") for _ in range(sums)] for _ in range(tile)] for _ in range(rows)]
            for part in (part for row in acc for each in row for part in each):
                e.store(part, 0, e.const(0, i32), lanes)
            with e.loop(spec.steps) as s:
                at = (block * spec.steps + s) * (tile * size)
                for t in range(tile if size == ALIGN else 0):
                    e.prefetch(values, at + BYTES_AHEAD[spec.ternary] + t * size)
                packed = [e.load(values, at + t * size, size) for t in range(tile)]
                for part, row in product(range(parts), range(rows)):
                    first = (m + row if row else m) * K + s * spec.step + 4 * part
                    quad = e.splat(e.bits(e.load(x, first, 4), "int32"), lanes)
                    pixels = dot.pixels(e, e.bits(quad, u8))
                    for t in range(tile):
                        own, weight = acc[row][t][part % sums], e.bits(_codes(e, spec, packed[t], part), f"int8x{size}")
                        e.store(own, 0, dot(e, e.load(own, 0, lanes), pixels, weight), lanes)
            extra = _total(e, spec, x, m) if masked else None
            for row, t in product(range(rows), range(tile)):
                found = [e.load(own, 0, lanes) >> e.const(2 * i, i32) for i, own in enumerate(acc[row][t])]
                value = sum(found[1:], found[0])
                value = value - e.splat(extra, lanes) if extra is not None else value
                finish(e.cast(value, f32), m + row if row else m, (block * tile + t) * lanes)

    arguments = [("x", "uint8"), ("values", "uint8"), ("scale", "float32"), ("bias", "float32"), ("params", "float32")]
    extra = [("residual", spec.residual)] if spec.residual else []
    return kernel_function([*arguments, *extra, ("out", spec.out)], body)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes linear layers of 8-bit activations with ternary weights of one level a channel, or int8 weights."""
    dot = available(ctx.target)
    if dot is None or not isinstance(node, Linear):
        return False
    weight, x = node.weight, ctx.graph.values[node.inputs[0]]
    ternary = isinstance(weight, TernaryTensor)
    if x.dtype != "uint8" or weight is None:
        return False
    if isinstance(weight, TernaryTensor):
        if weight.terms > 1 or not weight.is_symmetric:
            return False
        values, level = weight.codes[0], weight.per_channel.positive[0].astype(np.float64)
        arrays = weight.stored
        stored, zeros = weight.nbytes(), weight.sparsity()
    else:
        values, level, zeros = weight.values, weight.scale.astype(np.float64), 0.0
        if values.dtype != np.int8:
            return False
        arrays, stored = {"values": values}, values.nbytes
    batch, (outputs, inputs), quant = prod(x.shape[:-1]), values.shape, ctx.input_quant(node)
    if inputs > MOST_INPUTS or (inputs % (16 if ternary else 4) and ctx.is_callers(node.inputs[0])):
        return False
    macs = batch * outputs * inputs
    vectors = -(-outputs // dot.lanes)
    most = 1 if ternary or batch < MANY_ROWS else MOST_ROWS[dot.lanes]
    rows = -(-batch // -(-batch // most))
    usual = 8 if dot.lanes == 16 and not ternary and rows == 1 else 4
    tile = ctx.configs.knob(node.name, "tile", min(usual, vectors), [t for t in (1, 2, 3, 4, 6, 8) if t <= vectors])
    parallel = macs > ctx.serial * 40
    out_dtype = ctx.graph.values[node.outputs[0]].dtype
    residual = ctx.graph.values[node.residual].dtype if node.residual else None
    spec = Spec(batch, inputs, outputs, ternary, dot, out_dtype, tile, parallel, ctx.fma, residual, rows)
    unit = level * quant.scale * node.scale
    sums = values.astype(np.float64).sum(1)
    numbers = ctx.numbers(node, unit, node.bias - (quant.zero_point - dot.offset) * unit * sums)
    for name in ("scale", "bias"):
        numbers[name] = np.pad(numbers[name], (0, spec.padded - outputs))
    source = ctx.plain(node.inputs[0])
    params = {"shape": list(weight.codes.shape) if isinstance(weight, TernaryTensor) else [], "ternary": ternary}
    params |= {"lanes": dot.lanes, "tile": tile, "plus": int(spec.masked)}
    made = ctx.constants.add(node.name, "linear_dot", arrays, params)
    numeric = ctx.constants.add(node.name, "raw", numbers)
    reason = f"{batch} row{'s' * (batch > 1)}: dot products, weights in {2 if ternary else 8} bits"
    ctx.report(node, weight, NAME, reason)
    # Zeros are read and multiplied like all others.
    info = {"macs": macs, "nonzero_macs": round(macs * (1 - zeros)), "work": macs}
    info |= {"bytes_weights": stored, "reason": reason}
    residuals = [ctx.plain(node.residual)] if node.residual else []
    args = [source, made["values"], numeric["scale"], numeric["bias"], numeric["params"], *residuals]
    ctx.add_step(node, NAME, spec, [*args, ctx.new_plain(node.outputs[0])], info)
    return True
