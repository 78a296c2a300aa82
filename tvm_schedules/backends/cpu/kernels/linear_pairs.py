"""Linear layers of 8-bit activations on x86 without dot products: sums of pairs of products.

Ternary codes stay packed in two bits, each plus one. Taken apart they are 0, 1 or 2, and one instruction multiplies 32
of them with pixels and adds pairs in 16 bits, which hold the sums of 128 inputs. The sum of the pixels is taken off at
the end. 8-bit weights and pixels are widened to 16 bits, and pairs of products are added in 32.

Bound by reading the weights for one row, which is why codes stay packed, and by instructions for several.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.kernels.common.byte_linear import ByteLinear
from tvm_schedules.backends.cpu.kernels.common.dot_product import available
from tvm_schedules.backends.cpu.kernels.common.linear_end import arguments_of, finish_outputs, views_of
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused
from tvm_schedules.packing.linear_pairs import LANES, step_of

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "linear_pairs"
"""What artifacts and tuning databases call this kernel."""

BYTES = 4 * LANES
PAIRS_OF_BYTES = "llvm.x86.avx2.pmadd.ub.sw"
PAIRS_OF_SHORTS = "llvm.x86.avx2.pmadd.wd"
SUM_OF_BYTES = "llvm.x86.avx2.psad.bw"

MOST_STEPS = 8
"""Steps of ternary weights that 16 bits hold: four sums of two products of at most 510 each."""

MOST_INPUTS = 1 << 16
"""Inputs at most: 32 bits hold the sum of so many products of 8-bit numbers."""

MOST_ROWS = {True: 2, False: 5}
"""Rows of a register block at most, of ternary and of 8-bit weights."""

MOST_VECTORS = (4, 2)
"""Vectors of output channels of a register block of one row and of several at most: sums are in registers."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        batch: Rows M.
        inputs: Inputs K.
        outputs: Output channels O.
        ternary: Whether the weights are packed codes, else int8.
        rows: Rows of a register block.
        tile: Vectors of output channels of a register block.
        out: ``"uint8"`` or ``"float32"``.
        parallel: Whether threads share the jobs.
        fma: Whether the target has a fused multiply-add.
        residual: Type of a residual ``[M, O]``, or None.
    """

    batch: int
    inputs: int
    outputs: int
    ternary: bool
    rows: int
    tile: int
    out: str
    parallel: bool
    fma: bool
    residual: str | None = None

    @property
    def lanes(self) -> int:
        """Output channels a vector."""
        return LANES

    @property
    def weights(self) -> str:
        """How weights are stored."""
        return "int2" if self.ternary else "int8"

    @property
    def steps(self) -> int:
        """Vectors of weights of one vector of output channels."""
        return -(-self.inputs // step_of(self.ternary))

    @property
    def blocks(self) -> int:
        """Register blocks of output channels."""
        return -(-self.outputs // (LANES * self.tile))

    @property
    def padded(self) -> int:
        """Output channels rounded up to whole register blocks."""
        return self.blocks * self.tile * LANES


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, values, scale, bias, params, [residual,] out`` (scale, bias of whole blocks)."""

    def body(e: Emitter, *pointers: Any) -> None:
        _Code(e, spec, pointers).jobs()

    return kernel_function(arguments_of(spec, "uint8" if spec.ternary else "int8"), body)


class _Code:
    """The code of one function."""

    def __init__(self, e: Emitter, spec: Spec, pointers: Any) -> None:
        self.e, self.spec = e, spec
        beside = BYTES if spec.ternary else BYTES // 2
        # Up to one step of inputs past the end is read; weights there are zero.
        self.x = e.view(pointers[0], spec.batch * spec.inputs + step_of(spec.ternary), "uint8")
        size = spec.blocks * spec.steps * spec.tile * beside
        self.values = e.view(pointers[1], size, "uint8" if spec.ternary else "int8")
        self.beside = beside
        self.views = views_of(e, spec, pointers)

    def jobs(self) -> None:
        """All register blocks."""
        e, spec = self.e, self.spec
        with e.jobs(-(-spec.batch // spec.rows) * spec.blocks, spec.parallel) as job:
            # The last rows begin earlier: what is computed twice is the same.
            m = e.bind(e.min(job // spec.blocks * spec.rows, e.integer(spec.batch - spec.rows)))
            block = e.bind(job % spec.blocks)
            places = list(product(range(spec.rows), range(spec.tile)))
            totals = {place: e.local(LANES, "int32") for place in places}
            for total in totals.values():
                e.store(total, 0, e.const(0, f"int32x{LANES}"), LANES)
            (self._ternary if spec.ternary else self._dense)(totals, m, block)
            for (row, t), total in totals.items():
                value = e.bind(e.cast(e.load(total, 0, LANES), f"float32x{LANES}"))
                finish_outputs(e, spec, LANES, self.views, value, m + row, (block * spec.tile + t) * LANES)

    def _weights(self, block: Any, s: Any, t: int) -> Any:
        spec = self.spec
        return self.e.load(self.values, ((block * spec.steps + s) * spec.tile + t) * self.beside, self.beside)

    def _ternary(self, totals: dict[tuple[int, int], Any], m: Any, block: Any) -> None:
        e, spec = self.e, self.spec
        shorts = {place: e.local(2 * LANES, "int16") for place in totals}
        ones = e.const(1, f"int16x{2 * LANES}")

        def several(first: Any, count: int) -> None:
            for short in shorts.values():
                e.store(short, 0, e.const(0, f"int16x{2 * LANES}"), 2 * LANES)
            with e.loop(count) as j:
                s = first + j
                packed = [e.bind(self._weights(block, s, t)) for t in range(spec.tile)]
                for part, row in product(range(4), range(spec.rows)):
                    place = (m + row) * spec.inputs + s * step_of(True) + 4 * part
                    pixels = e.bind(e.bits(e.splat(e.bits(e.load(self.x, place, 4), "int32"), LANES), f"uint8x{BYTES}"))
                    for t, bits in enumerate(packed):
                        codes = (bits >> e.const(2 * part, f"uint8x{BYTES}")) & e.const(3, f"uint8x{BYTES}")
                        codes = e.bits(codes, f"int8x{BYTES}")
                        pairs = e.intrinsic(f"int16x{2 * LANES}", PAIRS_OF_BYTES, pixels, codes)
                        short = shorts[row, t]
                        e.store(short, 0, e.load(short, 0, 2 * LANES) + pairs, 2 * LANES)
            for place, short in shorts.items():
                self._add(totals[place], PAIRS_OF_SHORTS, e.load(short, 0, 2 * LANES), ones)

        with e.loop(spec.steps // MOST_STEPS) as turn:
            several(turn * MOST_STEPS, MOST_STEPS)
        if spec.steps % MOST_STEPS:
            several(e.integer(spec.steps // MOST_STEPS * MOST_STEPS), spec.steps % MOST_STEPS)
        for row in range(spec.rows):
            extra = e.bind(e.splat(self._sum(m + row), LANES))
            for t in range(spec.tile):
                total = totals[row, t]
                e.store(total, 0, e.load(total, 0, LANES) - extra, LANES)

    def _add(self, total: Any, name: str, a: Any, b: Any) -> None:
        """Adds pairs of 16-bit products to sums of 32 bits."""
        e = self.e
        pairs = e.intrinsic(f"int32x{LANES}", name, a, b)
        e.store(total, 0, e.load(total, 0, LANES) + pairs, LANES)

    def _sum(self, m: Any) -> Any:
        """The sum of a row's pixels."""
        e, inputs = self.e, self.spec.inputs
        wide, single = e.local(4, "int64"), e.local(1, "int32")
        e.store(wide, 0, e.const(0, "int64x4"), 4)
        e.store(single, 0, e.integer(0))
        with e.loop(inputs // BYTES) as k:
            pixels = e.load(self.x, m * inputs + k * BYTES, BYTES)
            sums = e.intrinsic("int64x4", SUM_OF_BYTES, pixels, e.const(0, f"uint8x{BYTES}"))
            e.store(wide, 0, e.load(wide, 0, 4) + sums, 4)
        with e.loop(4) as i:
            e.store(single, 0, e.load(single, 0) + e.cast(e.load(wide, i), "int32"))
        with e.loop(inputs % BYTES) as k:
            at = m * inputs + inputs // BYTES * BYTES + k
            e.store(single, 0, e.load(single, 0) + e.cast(e.load(self.x, at), "int32"))
        return e.load(single, 0)

    def _dense(self, totals: dict[tuple[int, int], Any], m: Any, block: Any) -> None:
        e, spec = self.e, self.spec
        length = 2 * spec.steps
        pixels = e.scratch(spec.rows * length, "int16")
        for row in range(spec.rows):
            self._widen((m + row) * spec.inputs, pixels, row * length, length)
        with e.loop(spec.steps) as s:
            weights = [e.bind(e.cast(self._weights(block, s, t), f"int16x{2 * LANES}")) for t in range(spec.tile)]
            for row in range(spec.rows):
                pair = e.splat(e.bits(e.load(pixels, row * length + 2 * s, 2), "int32"), LANES)
                two = e.bind(e.bits(pair, f"int16x{2 * LANES}"))
                for t, weight in enumerate(weights):
                    self._add(totals[row, t], PAIRS_OF_SHORTS, two, weight)

    def _widen(self, start: Any, target: Any, at: int, count: int) -> None:
        """``count`` pixels from ``start`` on in 16 bits."""
        e, lanes = self.e, 2 * LANES
        with e.loop(count // lanes) as i:
            wide = e.cast(e.load(self.x, start + i * lanes, lanes), f"int16x{lanes}")
            e.store(target, at + i * lanes, wide, lanes)
        with e.loop(count % lanes) as i:
            place = i + count // lanes * lanes
            e.store(target, at + place, e.cast(e.load(self.x, start + place), "int16"))


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes linear layers of 8-bit activations with ternary weights of one level a channel, or int8 weights."""
    target = ctx.target
    suits = not target.arm64 and "avx2" in target.features and available(target) is None
    layer = ByteLinear.take(ctx, node) if suits else None
    if layer is None or not layer.fits(MOST_INPUTS, step_of(layer.ternary)):
        return False
    vectors = -(-layer.outputs // LANES)
    rows = -(-layer.batch // -(-layer.batch // MOST_ROWS[layer.ternary]))
    most = min(vectors, MOST_VECTORS[rows > 1])
    tile = min(range(1, most + 1), key=lambda t: (-(-vectors // t) * (t + 0.5), -t))
    sizes = layer.batch, layer.inputs, layer.outputs, layer.ternary, rows, tile
    spec = Spec(*sizes, layer.out, layer.macs > ctx.serial * 16, ctx.fma, layer.residual)
    layer.finish(NAME, spec, {"tile": tile}, "sums of pairs of products")
    return True
