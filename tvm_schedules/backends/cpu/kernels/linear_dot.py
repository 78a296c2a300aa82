"""Linear layers over few rows of 8-bit activations, with dot products; ternary weights stay packed in two bits.

A byte holds the codes of four inputs that are four apart, so that a vector of packed bytes gives four vectors of codes
for the dot product. A mask is enough to get them: each of the four places of two bits has a sum of its own, of codes
times 1, 4, 16 and 64. Codes are stored plus one, and the sum of these inputs' pixels is taken off at the end. Where the
dot product takes weights as signed ones, as on x86, the highest place has the byte's sign, and its code stays.

Arm's instructions multiply by one element of a vector, so that 16 inputs are loaded at once.

Bound by reading the weights, which is why they stay packed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.kernels.common.byte_linear import ByteLinear
from tvm_schedules.backends.cpu.kernels.common.dot_product import UDOT, Dot, available
from tvm_schedules.backends.cpu.kernels.common.linear_end import arguments_of, finish_outputs, views_of
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused
from tvm_schedules.ir.layout import ALIGN

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "linear_dot"
"""What artifacts and tuning databases call this kernel."""


BYTES_AHEAD = {True: 1 << 12, False: 1 << 14}
"""How many bytes ahead weights, packed ones and others, are fetched where a vector is a cache line: from far away."""

MANY_ROWS = 4
"""Rows from which several at a time use a vector of weights."""

MOST_ROWS = {4: 4, 16: 6}
"""Rows a register block by lanes: with four vectors of channels, their sums leave registers for weights and pixels."""

ROUND = 16
"""Inputs that are loaded at once on Arm."""

UNROLL = 4
"""Such rounds in the body of a loop over a single row."""

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
        rows: Rows a register block.
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
    def plus(self) -> int:
        """Of 16 inputs those whose codes are stored plus one."""
        if not self.ternary:
            return 0
        return 16 if self.dot == UDOT else 12

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


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, values, scale, bias, params, [residual,] out`` (scale, bias of whole blocks)."""

    def body(e: Emitter, *pointers: Any) -> None:
        (_Elements if spec.dot.arm else _Splats)(e, spec, pointers).jobs()

    return kernel_function(arguments_of(spec, "uint8"), body)


class _Code(ABC):
    """The code of one function."""

    def __init__(self, e: Emitter, spec: Spec, pointers: tuple[Any, ...]) -> None:
        self.e, self.spec, self.size = e, spec, 4 * spec.dot.lanes
        # Up to one step of inputs past the end is read; weights there are zero.
        self.x = e.view(pointers[0], spec.batch * spec.inputs + 16, "uint8")
        self.values = e.view(pointers[1], spec.blocks * spec.steps * spec.tile * self.size, "uint8")
        self.views = views_of(e, spec, pointers)
        self.acc: list[list[list[Any]]] = []

    def jobs(self) -> None:
        """All jobs: some rows of a block of output channels each."""
        e, spec, rows = self.e, self.spec, self.spec.rows
        with e.jobs(-(-spec.batch // rows) * spec.blocks, spec.parallel) as job:
            m, block = job // spec.blocks, job % spec.blocks
            if rows > 1:  # the last rows are computed twice where the number is no multiple
                m = e.min(m * rows, e.integer(spec.batch - rows))
            places = 4 if spec.ternary else 1
            self.acc = [[[self._zero() for _ in range(places)] for _ in range(spec.tile)] for _ in range(rows)]
            extra = self.add(m, block)
            for row, t in product(range(rows), range(spec.tile)):
                self._finish(self.acc[row][t], extra[row] if extra else None, m + row if row else m, block, t)

    @abstractmethod
    def add(self, m: Any, block: Any) -> list[Any]:
        """Adds all products up; returns by row the sum of the pixels whose codes count one too much, in every lane."""

    def _zero(self) -> Any:
        """A vector of sums."""
        e, lanes = self.e, self.spec.dot.lanes
        made = e.local(lanes, "int32")
        e.store(made, 0, e.const(0, f"int32x{lanes}"), lanes)
        return made

    def packed(self, block: Any, step: Any) -> list[Any]:
        """The vectors of weights of one step."""
        at = (block * self.spec.steps + step) * (self.spec.tile * self.size)
        return [self.e.load(self.values, at + t * self.size, self.size) for t in range(self.spec.tile)]

    def codes(self, packed: Any, part: int) -> Any:
        """The weights of four inputs from a vector of packed ones: masked out in their place."""
        e = self.e
        mine = packed & e.const(3 << 2 * part, f"uint8x{self.size}") if self.spec.ternary else packed
        return e.bits(mine, f"int8x{self.size}")

    def total(self, row: int, t: int, part: int) -> Any:
        """The sums that one place of packed codes adds to."""
        sums = self.acc[row][t]
        return sums[part % len(sums)]

    def _finish(self, sums: list[Any], extra: Any, m: Any, block: Any, t: int) -> None:
        e, spec, lanes = self.e, self.spec, self.spec.dot.lanes
        found = [e.load(own, 0, lanes) >> e.const(2 * i, f"int32x{lanes}") for i, own in enumerate(sums)]
        value = sum(found[1:], found[0])
        value = value - extra if extra is not None else value
        first = (block * spec.tile + t) * lanes
        finish_outputs(e, spec, lanes, self.views, e.cast(value, f"float32x{lanes}"), m, first)


class _Splats(_Code):
    """On x86: four inputs are loaded into every lane."""

    def add(self, m: Any, block: Any) -> list[Any]:
        e, spec, dot, size = self.e, self.spec, self.spec.dot, self.size
        lanes, parts = dot.lanes, spec.step // 4
        with e.loop(spec.steps) as s:
            at = (block * spec.steps + s) * (spec.tile * size)
            for t in range(spec.tile if size == ALIGN else 0):
                e.prefetch(self.values, at + BYTES_AHEAD[spec.ternary] + t * size)
            packed = self.packed(block, s)
            for part, row in product(range(parts), range(spec.rows)):
                first = (m + row if row else m) * spec.inputs + s * spec.step + 4 * part
                quad = e.splat(e.bits(e.load(self.x, first, 4), "int32"), lanes)
                pixels = dot.pixels(e, e.bits(quad, f"uint8x{size}"))
                for t in range(spec.tile):
                    own = self.total(row, t, part)
                    e.store(own, 0, dot(e, e.load(own, 0, lanes), pixels, self.codes(packed[t], part)), lanes)
        return [e.splat(self._extra(m + row if row else m), lanes) for row in range(spec.rows if spec.plus else 0)]

    def _extra(self, m: Any) -> Any:
        """The sum of a row's pixels whose codes count one too much."""
        e, dot, lanes, size, inputs = self.e, self.spec.dot, self.spec.dot.lanes, self.size, self.spec.inputs
        acc, single = self._zero(), e.local(1, "int32")
        e.store(single, 0, e.integer(0))
        which = [i if i % 16 < self.spec.plus else size + i for i in range(size)]
        ones = e.shuffle([e.const(1, f"int8x{size}"), e.const(0, f"int8x{size}")], which)
        with e.loop(inputs // size) as k:
            here = e.load(self.x, m * inputs + k * size, size)
            e.store(acc, 0, dot(e, e.load(acc, 0, lanes), here, ones), lanes)
        with e.loop(lanes) as i:
            e.store(single, 0, e.load(single, 0) + e.load(acc, i))
        with e.loop(inputs % size) as k, e.when(k % 16 < self.spec.plus):
            here = e.load(self.x, m * inputs + inputs // size * size + k)
            e.store(single, 0, e.load(single, 0) + e.cast(here, "int32"))
        return e.load(single, 0)


class _Elements(_Code):
    """On Arm: 16 inputs are loaded at once, and four of them are an element that the instruction puts in every lane."""

    def add(self, m: Any, block: Any) -> list[Any]:
        e, spec = self.e, self.spec
        totals = [self._zero() for _ in range(spec.rows if spec.plus else 0)]
        full, rest = divmod(spec.inputs, ROUND)
        unroll = min(full, UNROLL) if spec.rows == 1 else 1
        if full:
            with e.loop(full // unroll) as turn:
                for k in range(unroll):
                    self._round(m, block, turn * unroll + k, ROUND, totals)
            with e.loop(full % unroll) as k:
                self._round(m, block, k + full // unroll * unroll, ROUND, totals)
        if rest:
            self._round(m, block, e.integer(full), rest, totals)
        name = "llvm.aarch64.neon.addp.v4i32"
        pairs = [e.intrinsic("int32x4", name, e.load(total, 0, 4), e.load(total, 0, 4)) for total in totals]
        return [e.bind(e.intrinsic("int32x4", name, pair, pair)) for pair in map(e.bind, pairs)]

    def _round(self, m: Any, block: Any, turn: Any, inputs: int, totals: list[Any]) -> None:
        """Adds the products of the next inputs, 16 or what is left of them."""
        e, spec, dot, quads = self.e, self.spec, self.spec.dot, -(-inputs // 4)
        pixels = []
        for row in range(spec.rows):
            first = (m + row if row else m) * spec.inputs + turn * ROUND
            pixels.append(e.bind(dot.pixels(e, e.load(self.x, first, ROUND))))
        if totals:
            which = [i if i < inputs else ROUND + i for i in range(ROUND)]
            ones = e.shuffle([e.const(1, "int8x16"), e.const(0, "int8x16")], which)
            for pixel, total in zip(pixels, totals, strict=True):
                e.store(total, 0, dot(e, e.load(total, 0, 4), pixel, ones), 4)
        for part in range(quads):
            if part == 0 or not spec.ternary:
                packed = self.packed(block, turn if spec.ternary else turn * 4 + part)
            weights = [e.bind(self.codes(vector, part)) for vector in packed]
            for (row, pixel), (t, weight) in product(enumerate(pixels), enumerate(weights)):
                own = self.total(row, t, part)
                e.store(own, 0, dot.by_element(e, e.load(own, 0, 4), weight, pixel, part), 4)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes linear layers of 8-bit activations with ternary weights of one level a channel, or int8 weights."""
    dot, layer = available(ctx.target), ByteLinear.take(ctx, node)
    if dot is None or layer is None or not layer.fits(MOST_INPUTS, ROUND if layer.ternary or dot.arm else 4):
        return False
    if layer.ternary and dot.arm:
        dot = UDOT  # codes plus one are not negative
    vectors = -(-layer.outputs // dot.lanes)
    rows = _rows(layer.batch, layer.ternary, dot)
    usual = 8 if dot.lanes == 16 and not layer.ternary and rows == 1 else 4
    if layer.ternary and rows > 1:
        usual = 2  # each has four sums
    tile = ctx.configs.knob(node.name, "tile", min(usual, vectors), [t for t in (1, 2, 3, 4, 6, 8) if t <= vectors])
    sizes = layer.batch, layer.inputs, layer.outputs, layer.ternary
    spec = Spec(*sizes, dot, layer.out, tile, layer.macs > ctx.serial * 40, ctx.fma, layer.residual, rows)
    layer.finish(NAME, spec, {"lanes": dot.lanes, "tile": tile, "plus": spec.plus}, "dot products", dot.offset)
    return True


def _rows(batch: int, ternary: bool, dot: Dot) -> int:
    """Rows a register block."""
    packed = 2 if dot.arm else 1
    most = packed if ternary else 1 if batch < MANY_ROWS else MOST_ROWS[dot.lanes]
    return -(-batch // -(-batch // most))
