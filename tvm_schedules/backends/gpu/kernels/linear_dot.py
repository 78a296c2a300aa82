"""Linear layers of few rows by dot products of four bytes, over weights of two bits (or eight) in memory.

A matrix times one vector is bound by reading the weights: ``lanes`` threads read a row of weights side by side, 16
bytes at a time each, for ``tile`` rows at once so that the activations are read once for all of them. Weights are
stored plus one (8-bit ones plus 128), unsigned; the activations' own sum takes that out.

Four codes at the same position of the bytes of a word are one operand: for a single vector they are masked out and not
shifted, and the four sums, 1, 4, 16 and 64 times too large, are shifted once at the end. For a small batch codes are
shifted, once for all vectors, and there is one sum. Threads of a row add up by shuffles, or in shared memory.

Bound by reading the weights from memory.
"""

from __future__ import annotations

from collections.abc import Sequence
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
"""Rows of activations that a group of threads holds sums of at most."""


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
    def together(self) -> int:
        """Rows of activations that a group of threads holds sums of."""
        return min(self.batch, MOST_BATCH)

    @property
    def masked(self) -> bool:
        """Whether codes are masked out of a word and not shifted."""
        return self.ternary and self.together == 1

    @property
    def sums(self) -> int:
        """Accumulators of a row of weights and one of activations."""
        return self.codes // 4 if self.masked else 1

    @property
    def width(self) -> int:
        """Words of activations that can be read at once: by the alignment of a row of them."""
        size = 1 << 30 if self.batch == 1 else self.inputs
        return 0 if size % 4 else (4 if size % 16 == 0 and self.ternary else 1)


def emit(spec: Spec) -> Kernel:
    """Makes the kernel: ``x, words, scale, bias, params, [residual,] out``."""
    K, O = spec.inputs, spec.outputs  # noqa: E741
    assert spec.words * spec.codes >= K
    own = [
        Argument("x", *(("uint32", -(-spec.batch * K // 4)) if spec.width else ("uint8", spec.batch * K))),
        Argument("words", "uint32", spec.rows * spec.words),
        Argument("scale", "float32", O),
        Argument("bias", "float32", O),
        Argument("params", "float32", 4),
        *([Argument("residual", spec.residual, spec.batch * O)] if spec.residual else []),
        Argument("out", spec.out, spec.batch * O),
    ]

    def body(e: GpuEmitter, group: Any, t: Any, *views: Any) -> None:
        _Thread(e, spec, group, t, views).run()

    grid = (-(-spec.rows // (spec.tile * spec.groups)), -(-spec.batch // spec.together), 1)
    return Kernel(own, grid, spec.lanes * spec.groups, body)


class _Thread:
    """The code of a thread: its part of ``tile`` rows of weights times ``together`` rows of activations.

    Attributes:
        parts: Words of activations that belong to a word of weights.
        lane: Which of the threads of a row of weights it is.
        first: The first of its rows of weights.
        start: The first of its rows of activations.
        acc: Accumulators, by row of weights, row of activations and, where codes are masked, place in a byte.
        ones: Sums of each row of activations.
    """

    def __init__(self, e: GpuEmitter, spec: Spec, group: Any, t: Any, views: Sequence[Any]) -> None:
        self.e, self.spec, self.t, self.views = e, spec, t, views
        self.parts = spec.codes // 4
        self.lane = e.keep(t % spec.lanes, "int32")
        self.first = e.keep((group[0] * spec.groups + t // spec.lanes) * spec.tile, "int32")
        self.start = group[1] * spec.together
        zero = e.const(0, "uint32")
        counts = (spec.tile * spec.together * spec.sums, spec.together)
        self.acc, self.ones = (e.local(count, "uint32") for count in counts)
        self.weight, self.pixel = e.local(spec.tile * spec.vector, "uint32"), e.local(self.parts, "uint32")
        for place, count in zip((self.acc, self.ones), counts, strict=True):
            for i in range(count):
                e.store(place, i, zero)

    def run(self) -> None:
        """Multiplies, adds up over the lanes, and stores."""
        e, spec, words = self.e, self.spec, self.views[1]
        # Threads past the last row read the last one and do not store.
        with e.loop(spec.steps) as s:
            for r in range(spec.tile):
                row = e.min(self.first + r, e.integer(spec.rows - 1))
                at = (row * spec.steps + s) * (spec.lanes * spec.vector) + self.lane * spec.vector
                e.store(self.weight, r * spec.vector, e.load(words, at, spec.vector), spec.vector)
            for q in range(spec.vector):
                word = (s * spec.vector + q) * spec.lanes + self.lane
                for m in range(spec.together):
                    self._load_activations(m, word)
                    self._add_ones(m)
                    for r in range(spec.tile):
                        self._multiply(m, r, q)
        self._correct()
        _add_up(e, spec, self.acc, self.t, self.lane)
        self._store()

    def _load_activations(self, m: int, word: Any) -> None:
        """Loads the words of activations that belong to a word of weights."""
        e, spec, x, K = self.e, self.spec, self.views[0], self.spec.inputs
        row = self.start + m
        row = e.min(row, e.integer(spec.batch - 1)) if spec.batch > spec.together else row
        if spec.width == 4:
            e.store(self.pixel, 0, e.load(x, row * (K // 4) + word * 4, 4), 4)
        elif spec.width == 1:
            for i in range(self.parts):
                e.store(self.pixel, i, e.load(x, row * (K // 4) + word * self.parts + i))
        else:
            for i in range(self.parts):
                at = row * K + word * spec.codes + i * 4
                value = e.cast(e.load(x, at), "uint32")
                for j in range(1, 4):
                    value = value | (e.cast(e.load(x, at + j), "uint32") << e.const(8 * j, "uint32"))
                e.store(self.pixel, i, value)

    def _add_ones(self, m: int) -> None:
        """Adds the activations to their own sum."""
        e = self.e
        for i in range(self.parts):
            ones = e.const(ONES, "uint32")
            e.store(self.ones, m, e.extern("uint32", "tern_dot", e.load(self.pixel, i), ones, e.load(self.ones, m)))

    def _multiply(self, m: int, r: int, q: int) -> None:
        """Adds the products of the activations with one word of weights."""
        e, spec = self.e, self.spec
        for i in range(self.parts):
            operand = e.load(self.weight, r * spec.vector + q)
            if spec.ternary:
                shift = 0 if spec.masked else 2 * i
                operand = operand >> e.const(shift, "uint32") if shift else operand
                operand = operand & e.const(3 * ONES << (2 * i if spec.masked else 0), "uint32")
            at = (r * spec.together + m) * spec.sums + (i if spec.masked else 0)
            e.store(self.acc, at, e.extern("uint32", "tern_dot", e.load(self.pixel, i), operand, e.load(self.acc, at)))

    def _correct(self) -> None:
        """Joins the sums of the places of a byte, and takes off what weights are stored with too much."""
        e, spec = self.e, self.spec
        for r in range(spec.tile):
            for m in range(spec.together):
                at = (r * spec.together + m) * spec.sums
                value = e.load(self.acc, at)
                for i in range(1, spec.sums):
                    value = value + (e.load(self.acc, at + i) >> e.const(2 * i, "uint32"))
                plus = e.const(1 if spec.ternary else 128, "uint32")
                e.store(self.acc, at, value - e.load(self.ones, m) * plus)

    def _store(self) -> None:
        """Stores the results of the first lane."""
        e, spec, O = self.e, self.spec, self.spec.outputs  # noqa: E741
        _, _, scale, bias, params, *residual, out = self.views
        for r in range(spec.tile):
            for m in range(spec.together):
                o, row = self.first + r, self.start + m
                checks = [self.lane == 0, o < O] + ([row < spec.batch] if spec.batch > spec.together else [])
                with e.when(e.both(*checks)):
                    total = e.load(self.acc, (r * spec.together + m) * spec.sums)
                    y = e.cast(e.bits(total, "int32"), "float32") * e.load(scale, o) + e.load(bias, o)
                    if residual:
                        y = y + e.cast(e.load(residual[0], row * O + o), "float32") * e.load(params, 0)
                    e.store(out, row * O + o, rounded(e, limits(e, y, params), spec.out))


def _add_up(e: GpuEmitter, spec: Spec, acc: Any, t: Any, lane: Any) -> None:
    """Adds the sums of the lanes of a row; the first lane has the result."""
    count, stride = spec.tile * spec.together, spec.sums
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
