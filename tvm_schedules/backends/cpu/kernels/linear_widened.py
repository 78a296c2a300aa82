"""Linear layers over few rows of 8-bit activations on Arm's cores without dot products.

Products of bytes are 16 bits wide and added up there, in one instruction with the product, as long as 16 bits hold the
sum: two of 8-bit weights, hundreds of ternary ones. Then pairs of them go into 32 bits. Inputs are the lanes, and both
factors are signed: pixels enter minus 128, and the bias makes up for it. Ternary weights stay packed in two bits.

Bound by products, and where weights do not fit a cache by reading them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.kernels.common.byte_linear import ByteLinear
from tvm_schedules.backends.cpu.kernels.common.dot_product import available
from tvm_schedules.backends.cpu.kernels.common.linear_end import arguments_of, finish_outputs, views_of
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused
from tvm_schedules.packing.linear_widened import step_of

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "linear_widened"
"""What artifacts and tuning databases call this kernel."""

TILE = 8
"""Output channels a register block: each has a register of sums, or two."""

MOST_STEPS = 31
"""Steps of ternary weights that 16 bits hold: eight products of at most 128 a lane each."""

MOST_INPUTS = 1 << 16
"""Inputs at most: 32 bits hold the sum of so many products of 8-bit numbers."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        batch: Rows M.
        inputs: Inputs K.
        outputs: Output channels O.
        ternary: Whether the weights are packed codes, else int8 without -128.
        out: ``"uint8"`` or ``"float32"``.
        parallel: Whether threads share the jobs.
        fma: Whether the target has a fused multiply-add.
        residual: Type of a residual ``[M, O]``, or None.
    """

    batch: int
    inputs: int
    outputs: int
    ternary: bool
    out: str
    parallel: bool
    fma: bool
    residual: str | None = None

    @property
    def steps(self) -> int:
        """Vectors of weights of one output channel."""
        return -(-self.inputs // step_of(self.ternary))

    @property
    def blocks(self) -> int:
        """Register blocks of output channels."""
        return -(-self.outputs // TILE)

    @property
    def padded(self) -> int:
        """Output channels rounded up to whole register blocks."""
        return self.blocks * TILE


def _product(e: Emitter, a: Any, b: Any, half: int, total: Any = None) -> Any:
    """The products of one half of the bytes, int16, added to ``total``."""
    order = list(range(8 * half, 8 * half + 8))
    made = e.intrinsic("int16x8", "llvm.aarch64.neon.smull.v8i16", e.shuffle([a], order), e.shuffle([b], order))
    return made if total is None else total + made


def _fold(e: Emitter, total: Any, shorts: Any) -> None:
    """Adds pairs of 16-bit sums to those of 32 bits."""
    pairs = e.intrinsic("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", shorts)
    e.store(total, 0, e.load(total, 0, 4) + pairs, 4)


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, values, scale, bias, params, [residual,] out`` (scale, bias of whole blocks)."""
    step = step_of(spec.ternary)

    def body(e: Emitter, *pointers: Any) -> None:
        # Up to one step of inputs past the end is read; weights there are zero.
        x = e.view(pointers[0], spec.batch * spec.inputs + step, "uint8")
        values = e.view(pointers[1], spec.padded * spec.steps * 16, "uint8")
        views = views_of(e, spec, pointers)

        def pixels(m: Any, s: Any, part: int) -> Any:
            read = e.load(x, m * spec.inputs + s * step + 16 * part, 16)
            return e.bind(e.bits(read ^ e.const(128, "uint8x16"), "int8x16"))

        def weights(block: Any, s: Any, i: int) -> Any:
            return e.load(values, ((block * spec.steps + s) * TILE + i) * 16, 16)

        def dense(totals: list[Any], m: Any, block: Any) -> None:
            with e.loop(spec.steps) as s:
                near = pixels(m, s, 0)
                for i, total in enumerate(totals):
                    weight = e.bind(e.bits(weights(block, s, i), "int8x16"))
                    _fold(e, total, _product(e, near, weight, 1, _product(e, near, weight, 0)))

        def ternary(totals: list[Any], m: Any, block: Any) -> None:
            shorts = [e.local(8, "int16") for _ in totals]

            def several(first: Any, count: Any) -> None:
                for short in shorts:
                    e.store(short, 0, e.const(0, "int16x8"), 8)
                with e.loop(count) as j:
                    nears = [pixels(m, first + j, part) for part in range(4)]
                    for i, short in enumerate(shorts):
                        packed, total = e.bind(weights(block, first + j, i)), e.load(short, 0, 8)
                        for part, near in enumerate(nears):
                            moved = packed << e.const(6 - 2 * part, "uint8x16") if part < 3 else packed
                            weight = e.bind(e.bits(moved, "int8x16") >> e.const(6, "int8x16"))
                            total = _product(e, near, weight, 1, _product(e, near, weight, 0, total))
                        e.store(short, 0, total, 8)
                for total, short in zip(totals, shorts, strict=True):
                    _fold(e, total, e.load(short, 0, 8))

            with e.loop(spec.steps // MOST_STEPS) as turn:
                several(turn * MOST_STEPS, MOST_STEPS)
            if spec.steps % MOST_STEPS:
                several(e.integer(spec.steps // MOST_STEPS * MOST_STEPS), spec.steps % MOST_STEPS)

        with e.jobs(spec.batch * spec.blocks, spec.parallel) as job:
            m, block = job // spec.blocks, job % spec.blocks
            totals = [e.local(4, "int32") for _ in range(TILE)]
            for total in totals:
                e.store(total, 0, e.const(0, "int32x4"), 4)
            (ternary if spec.ternary else dense)(totals, m, block)
            for first in range(0, TILE, 4):
                found = [e.load(total, 0, 4) for total in totals[first : first + 4]]
                while len(found) > 1:
                    pairs = zip(found[::2], found[1::2], strict=True)
                    found = [e.intrinsic("int32x4", "llvm.aarch64.neon.addp.v4i32", *pair) for pair in pairs]
                value = e.bind(e.cast(found[0], "float32x4"))
                finish_outputs(e, spec, 4, views, value, m, block * TILE + first)

    return kernel_function(arguments_of(spec, "uint8"), body)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes linear layers of 8-bit activations with ternary weights of one level a channel, or int8 weights."""
    layer = ByteLinear.take(ctx, node) if ctx.target.arm64 and available(ctx.target) is None else None
    if layer is None or not layer.fits(MOST_INPUTS, step_of(layer.ternary)):
        return False
    if layer.values.min(initial=0) == -128:  # 16 bits do not hold two products of it
        return False
    parallel = layer.macs > ctx.serial * 16
    sizes = layer.batch, layer.inputs, layer.outputs, layer.ternary
    spec = Spec(*sizes, layer.out, parallel, ctx.fma, layer.residual)
    layer.finish(NAME, spec, {"tile": TILE}, "sums of bytes in 16 bits", offset=128)
    return True
