"""Linear layers of few rows by dot products of four bytes, over weights of two bits (or eight) in memory.

A matrix times one vector is bound by reading the weights: ``lanes`` threads read a row of weights side by side, 16
bytes at a time each, for ``tile`` rows at once so that the activations are read once for all of them. Weights are
stored plus one (8-bit ones plus 128), unsigned; the activations' own sum takes that out.

Four codes at the same position of the bytes of a word are one operand: for a single vector they are masked out and not
shifted, and the four sums, 1, 4, 16 and 64 times too large, are shifted once at the end. For a small batch codes are
shifted, once for all vectors, and there is one sum. Threads of a row add up by shuffles, or in shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.gpu.kernels.common.epilogue import limits, rounded
from tvm_schedules.compat.gpu import Argument, GpuEmitter, Kernel
from tvm_schedules.ir.graph import Fused, Linear
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.targets.registry import TargetSpec

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "arrange", "emit", "has_shuffles", "lower"]

NAME = "linear_dot"
"""What artifacts and tuning databases call this kernel."""

ONES = 0x01010101
MOST_BATCH = 8
"""Rows of activations that a group of threads holds sums of."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        batch: Rows M of activations.
        inputs: Inputs K.
        outputs: Output channels O.
        ternary: Weights of two bits, else of eight.
        lanes: Threads a row of weights.
        vector: Words of weights that a thread reads at once.
        tile: Rows of weights a thread.
        groups: Times ``lanes`` threads in a group.
        shuffle: Whether threads can read each other's registers.
        out: ``"uint8"`` or ``"float32"``.
        residual: Type of a residual ``[M, O]``, or None.
    """

    batch: int
    inputs: int
    outputs: int
    ternary: bool
    lanes: int
    vector: int
    tile: int
    groups: int
    shuffle: bool
    out: str
    residual: str | None = None

    @property
    def codes(self) -> int:
        """Weights a word."""
        return 16 if self.ternary else 4

    @property
    def steps(self) -> int:
        """Reads of ``vector`` words that every thread does."""
        return -(-self.inputs // (self.codes * self.lanes * self.vector))

    @property
    def words(self) -> int:
        """Words that a row of weights is stored in."""
        return self.steps * self.lanes * self.vector

    @property
    def rows(self) -> int:
        """Rows of weights rounded up to whole threads' shares."""
        return -(-self.outputs // self.tile) * self.tile

    @property
    def width(self) -> int:
        """Words of activations that can be read at once: by the alignment of a row of them."""
        size = 1 << 30 if self.batch == 1 else self.inputs
        return 0 if size % 4 else (4 if size % 16 == 0 and self.ternary else 1)


def emit(spec: Spec) -> Kernel:
    """Makes the kernel: ``x, words, scale, bias, params, [residual,] out``."""
    K, O, lanes, vector, tile = spec.inputs, spec.outputs, spec.lanes, spec.vector, spec.tile  # noqa: E741
    parts = spec.codes // 4  # operands a word
    batch = min(spec.batch, MOST_BATCH)
    masked = spec.ternary and batch == 1
    sums = parts if masked else 1
    threads = lanes * spec.groups
    read = spec.words * spec.codes  # activations that a row of weights spans
    words_x, bytes_x = spec.width, spec.batch * K
    own = [
        Argument("x", "uint32" if words_x else "uint8", -(-bytes_x // 4) if words_x else bytes_x),
        Argument("words", "uint32", spec.rows * spec.words),
        Argument("scale", "float32", O),
        Argument("bias", "float32", O),
        Argument("params", "float32", 4),
        *([Argument("residual", spec.residual, spec.batch * O)] if spec.residual else []),
        Argument("out", spec.out, spec.batch * O),
    ]
    plus = 1 if spec.ternary else 128

    def body(e: GpuEmitter, group: Any, t: Any, *views: Any) -> None:
        x, words, scale, bias, params, *beside, out = views
        lane = e.keep(t % lanes, "int32")
        first = e.keep((group[0] * spec.groups + t // lanes) * tile, "int32")
        start = group[1] * batch
        zero = e.const(0, "uint32")
        acc, ones = e.local(tile * batch * sums, "uint32"), e.local(batch, "uint32")
        weight, pixel = e.local(tile * vector, "uint32"), e.local(parts, "uint32")
        for place, count in ((acc, tile * batch * sums), (ones, batch)):
            for i in range(count):
                e.store(place, i, zero)

        def activations(m: int, word: Any) -> None:
            """Loads the ``parts`` words of activations that belong to a word of weights."""
            row = e.min(start + m, e.integer(spec.batch - 1)) if spec.batch > batch else start + m
            if words_x == 4:
                e.store(pixel, 0, e.load(x, row * (K // 4) + word * 4, 4), 4)
            elif words_x == 1:
                for i in range(parts):
                    e.store(pixel, i, e.load(x, row * (K // 4) + word * parts + i))
            else:
                for i in range(parts):
                    at = row * K + word * spec.codes + i * 4
                    value = e.cast(e.load(x, at), "uint32")
                    for j in range(1, 4):
                        value = value | (e.cast(e.load(x, at + j), "uint32") << e.const(8 * j, "uint32"))
                    e.store(pixel, i, value)

        def multiply(m: int, r: int, q: int) -> None:
            for i in range(parts):
                operand = e.load(weight, r * vector + q)
                if spec.ternary:
                    shift = 0 if masked else 2 * i
                    operand = operand >> e.const(shift, "uint32") if shift else operand
                    operand = operand & e.const(3 * ONES << (2 * i if masked else 0), "uint32")
                at = (r * batch + m) * sums + (i if masked else 0)
                e.store(acc, at, e.extern("uint32", "tern_dot", e.load(pixel, i), operand, e.load(acc, at)))

        # Threads past the last row read the last one and do not store.
        with e.loop(spec.steps) as s:
            for r in range(tile):
                row = e.min(first + r, e.integer(spec.rows - 1))
                at = (row * spec.steps + s) * (lanes * vector) + lane * vector
                e.store(weight, r * vector, e.load(words, at, vector), vector)
            for q in range(vector):
                word = (s * vector + q) * lanes + lane
                for m in range(batch):
                    activations(m, word)
                    for i in range(parts):
                        total = e.extern(
                            "uint32", "tern_dot", e.load(pixel, i), e.const(ONES, "uint32"), e.load(ones, m)
                        )
                        e.store(ones, m, total)
                    for r in range(tile):
                        multiply(m, r, q)
        for r in range(tile):
            for m in range(batch):
                at = (r * batch + m) * sums
                value = e.load(acc, at)
                for i in range(1, sums):
                    value = value + (e.load(acc, at + i) >> e.const(2 * i, "uint32"))
                e.store(acc, at, value - e.load(ones, m) * e.const(plus, "uint32"))
        _add_up(e, spec, acc, t, lane, tile * batch, sums)

        for r in range(tile):
            for m in range(batch):
                o, row = first + r, start + m
                checks = [lane == 0, o < O] + ([row < spec.batch] if spec.batch > batch else [])
                with e.when(e.both(*checks)):
                    value = e.cast(e.bits(e.load(acc, (r * batch + m) * sums), "int32"), "float32")
                    y = value * e.load(scale, o) + e.load(bias, o)
                    if beside:
                        y = y + e.cast(e.load(beside[0], row * O + o), "float32") * e.load(params, 0)
                    e.store(out, row * O + o, rounded(e, limits(e, y, params), spec.out))

    assert read >= K
    grid = (-(-spec.rows // (tile * spec.groups)), -(-spec.batch // batch), 1)
    return Kernel(own, grid, threads, body)


def _add_up(e: GpuEmitter, spec: Spec, acc: Any, t: Any, lane: Any, count: int, stride: int) -> None:
    """Adds the sums of the lanes of a row; the first lane has the result."""
    threads = spec.lanes * spec.groups
    step = spec.lanes // 2
    if spec.shuffle:
        while step:
            for i in range(0, count * stride, stride):
                other = e.extern("uint32", "tern_down", e.load(acc, i), step, spec.lanes)
                e.store(acc, i, e.load(acc, i) + other)
            step //= 2
        return
    # The sums stay in registers; who still has to add something reads what the others have put down.
    shared = e.shared(count * threads, "uint32")
    while step:
        e.barrier()
        with e.when(lane < 2 * step):
            for i in range(count):
                e.store(shared, i * threads + t, e.load(acc, i * stride))
        e.barrier()
        with e.when(lane < step):
            for i in range(count):
                e.store(acc, i * stride, e.load(acc, i * stride) + e.load(shared, i * threads + t + step))
        step //= 2


def has_shuffles(target: TargetSpec) -> bool:
    """Whether threads of a target can read each other's registers."""
    return target.tvm["kind"] == "cuda"


def arrange(inputs: int, outputs: int, ternary: bool) -> tuple[int, int, int]:
    """Lanes, vector and tile for a layer: reads of 16 bytes where a row is long, little that is read in vain."""
    codes = 16 if ternary else 4
    best = (32, 4)
    if inputs < 4 * codes * 32 * 4 and inputs % (codes * 32 * 4):
        options = [(lanes, vector) for vector in (4, 2, 1) for lanes in (32, 16, 8)]
        best = min(options, key=lambda o: (-(-inputs // (codes * o[0] * o[1])) * codes * o[0] * o[1], -o[0] * o[1]))
    return (*best, 4 if outputs >= 8192 else 2 if outputs >= 1024 else 1)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes linear layers of 8-bit activations and few rows: ternary weights of one level a row, 8-bit weights."""
    if not isinstance(node, Linear) or node.weight is None:
        return False
    weight, x = node.weight, ctx.graph.values[node.inputs[0]]
    if x.dtype != "uint8":
        return False
    arrays: dict[str, np.ndarray]
    if isinstance(weight, TernaryTensor):
        if weight.terms > 1 or not weight.is_symmetric:
            return False
        full = weight.per_channel
        values, level, ternary = weight.codes[0], full.positive[0], True
        arrays = weight.stored
        stored = weight.nbytes()
    else:
        values, level, ternary, arrays = weight.values, weight.scale, False, {"values": weight.values}
        stored = values.nbytes
        if values.dtype != np.int8 or int(values.min()) < -127:
            return False
    batch, inputs, outputs = prod(x.shape[:-1]), x.shape[-1], values.shape[0]
    if 255 * 255 * inputs >= 1 << 32:
        return False
    unit = level.astype(np.float64) * ctx.input_quant(node).scale * node.scale
    offset = node.bias - ctx.input_quant(node).zero_point * unit * values.astype(np.float64).sum(1)
    numeric = ctx.constants.add(node.name, "raw", ctx.numbers(node, unit, offset))
    lanes, vector, tile = arrange(inputs, outputs, ternary)
    out = ctx.graph.values[node.outputs[0]].dtype
    residual = ctx.graph.values[node.residual].dtype if node.residual else None
    groups = 128 // lanes
    spec = Spec(batch, inputs, outputs, ternary, lanes, vector, tile, groups, has_shuffles(ctx.target), out, residual)
    params = {"shape": [1, *values.shape], "ternary": ternary, "lanes": lanes, "vector": vector, "rows": spec.rows}
    made = ctx.constants.add(node.name, "gpu_linear_dot", arrays, params)
    residuals = [ctx.plain(node.residual)] if node.residual else []
    args = [ctx.plain(node.inputs[0]), made["words"], numeric["scale"], numeric["bias"], numeric["params"], *residuals]
    reason = f"{batch} row{'s' * (batch > 1)}, weights of {2 if ternary else 8} bits, dot products of four"
    macs = batch * inputs * outputs
    nonzero = batch * int(np.count_nonzero(values))
    info = {"macs": macs, "nonzero_macs": nonzero, "bytes_weights": stored, "reason": reason}
    ctx.report(node, weight, NAME, reason)
    ctx.add_step(node, NAME, spec, [*args, ctx.new_plain(node.outputs[0])], info)
    return True
