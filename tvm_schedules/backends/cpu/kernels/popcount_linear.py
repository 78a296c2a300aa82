"""Linear layers over few rows of activations of few bits: eight weights of an output at once, by counting bits.

The formula is that of :mod:`.popcount_conv`; here output channels are the vector lanes. A step of weights is eight
inputs of as many outputs as a vector has bytes: a vector of masks for the additions and one for the subtractions, two
bits a weight. Steps in which no output of a register block has a weight are left out.

Bound by reading the masks, and for several bits by counting.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.cpu.kernels import repack_bit_rows
from tvm_schedules.backends.cpu.kernels.common.epilogue import MAGIC
from tvm_schedules.backends.cpu.kernels.common.ternary_rows import MOST_BITS
from tvm_schedules.backends.cpu.kernels.popcount_conv import ONCE, counts_bytes
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused, Linear
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.steps import Buffer
from tvm_schedules.packing.bitplanes import WORD
from tvm_schedules.packing.popcount_linear import groups_of
from tvm_schedules.packing.tap_lists import split_levels

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "popcount_linear"
"""What artifacts and tuning databases call this kernel."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        batch: Rows M.
        groups: Steps of the inputs: eights, in whole chunks.
        outputs: Output channels O.
        terms: Terms with a level each; one has its level in the epilogue's scale.
        steps: Steps of weights in all.
        planes: Bits of the inputs.
        vector: Bytes a vector register.
        tile: Vectors of output channels a register block.
        out: ``"uint8"`` or ``"float32"``.
        parallel: Whether threads share the jobs.
        fma: Whether the target has a fused multiply-add.
    """

    batch: int
    groups: int
    outputs: int
    terms: int
    steps: int
    planes: int
    vector: int
    tile: int
    out: str
    parallel: bool
    fma: bool

    @property
    def blocks(self) -> int:
        """Register blocks of output channels."""
        return -(-self.outputs // (self.vector * self.tile))

    @property
    def padded(self) -> int:
        """Output channels rounded up to whole register blocks."""
        return self.blocks * self.vector * self.tile


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, masks, inputs, bounds, level, scale, bias, params, out``."""
    vector, tile, planes, half = spec.vector, spec.tile, spec.planes, spec.vector // 2
    u8, u16, f32 = f"uint8x{vector}", f"uint16x{half}", f"float32x{half}"
    arguments = [("x", "uint32"), ("masks", "uint8"), ("inputs", "int32"), ("bounds", "int32"), ("level", "float32")]
    arguments += [("scale", "float32"), ("bias", "float32"), ("params", "float32"), ("out", spec.out)]

    def body(e: Emitter, *pointers: Any) -> None:
        sizes = [spec.batch * planes * spec.groups, max(1, spec.steps) * tile * 2 * vector, spec.steps + 1]
        sizes += [spec.blocks * spec.terms + 1, spec.terms * spec.padded, spec.padded, spec.padded, 4]
        views = [e.view(p, n, t) for p, n, (_, t) in zip(pointers, sizes, arguments, strict=False)]
        x, masks, inputs, bounds, level, scale, bias, params = views
        out = e.view(pointers[-1], spec.batch * spec.outputs, spec.out)

        def count(sums: list[Any], halves: list[Any], m: Any, first: Any, length: Any) -> None:
            for part in sums:
                e.store(part, 0, e.const(0, u8), vector)
            with e.loop(length) as j:
                group = e.load(inputs, first + j) + m * (planes * spec.groups)
                at = (first + j) * (tile * 2 * vector)
                pairs = [[e.load(masks, at + (2 * t + s) * vector, vector) for s in range(2)] for t in range(tile)]
                for b in range(planes):
                    bits = e.bits(e.splat(e.load(x, group + b * spec.groups), vector // 4), u8)
                    for t, (plus, minus) in enumerate(pairs):
                        found = e.intrinsic(u8, "llvm.ctpop", (bits & plus) | (~bits & minus))
                        part = sums[b * tile + t]
                        e.store(part, 0, e.load(part, 0, vector) + found, vector)
            for index, part in enumerate(sums):
                word = e.bits(e.load(part, 0, vector), u16)
                for k, term in enumerate((word & e.const(255, u16), word >> e.const(8, u16))):
                    total = halves[2 * index + k]
                    e.store(total, 0, e.load(total, 0, half) + term, half)

        def term(sums: list[Any], halves: list[Any], m: Any, run: Any) -> None:
            for part in halves:
                e.store(part, 0, e.const(0, u16), half)
            first, last = e.load(bounds, run), e.load(bounds, run + 1)
            whole = (last - first) // ONCE
            with e.loop(whole) as i:
                count(sums, halves, m, first + i * ONCE, ONCE)
            with e.when(last - first > whole * ONCE):
                count(sums, halves, m, first + whole * ONCE, last - first - whole * ONCE)

        def value(halves: list[Any], t: int, k: int) -> Any:
            total: Any = None
            for b in range(planes):
                part = e.cast(e.load(halves[2 * (b * tile + t) + k], 0, half), f32)
                part = part * e.const(float(2**b), f32) if b else part
                total = part if total is None else total + part
            return total

        def finish(y: Any, m: Any, first: Any) -> None:
            factor, offset = e.load(scale, first, half), e.load(bias, first, half)
            y = e.fma(y, factor, offset) if spec.fma else y * factor + offset
            low, high = (e.splat(e.load(params, i), half) for i in (1, 2))
            y = e.min(e.max(y, low), high)
            if spec.out == "uint8":
                y = e.cast(e.bits(y + e.const(MAGIC, f32), f"int32x{half}"), f"uint8x{half}")
            with e.when(first + half <= spec.outputs):
                e.store(out, m * spec.outputs + first, y, half)
            if spec.outputs % half:
                rest = e.local(half, spec.out)
                e.store(rest, 0, y, half)
                with e.loop(spec.outputs % half) as i, e.when((first < spec.outputs) & (first + half > spec.outputs)):
                    e.store(out, m * spec.outputs + first + i, e.load(rest, i))

        with e.jobs(spec.batch * spec.blocks, spec.parallel) as job:
            m, block = job // spec.blocks, job % spec.blocks
            sums = [e.local(vector, "uint8") for _ in range(planes * tile)]
            halves = [e.local(half, "uint16") for _ in range(2 * planes * tile)]
            totals = [e.local(half, "float32") for _ in range(2 * tile)] if spec.terms > 1 else []
            places = [(block * (2 * tile) + 2 * t + k) * half for t in range(tile) for k in range(2)]
            if not totals:
                term(sums, halves, m, block)
                for index, place in enumerate(places):
                    finish(value(halves, index // 2, index % 2), m, place)
                return
            for total in totals:
                e.store(total, 0, e.const(0.0, f32), half)
            with e.loop(spec.terms) as i:
                term(sums, halves, m, block * spec.terms + i)
                for index, (total, place) in enumerate(zip(totals, places, strict=True)):
                    weight = e.load(level, i * spec.padded + place, half)
                    own, old = value(halves, index // 2, index % 2), e.load(total, 0, half)
                    e.store(total, 0, e.fma(own, weight, old) if spec.fma else old + own * weight, half)
            for total, place in zip(totals, places, strict=True):
                finish(e.load(total, 0, half), m, place)

    return kernel_function(arguments, body)


LONGEST = 65_535
"""Inputs at most: what 16-bit sums of bits hold."""


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes ternary linear layers of few rows whose inputs have few bits."""
    weight = node.weight if isinstance(node, Linear) else None
    x, quant = ctx.graph.values[node.inputs[0]], ctx.input_quant(node)
    if not isinstance(weight, TernaryTensor) or node.residual or not counts_bytes(ctx.target):
        return False
    batch, inputs = prod(x.shape[:-1]), x.shape[-1]
    few = x.dtype == "uint8" and 1 <= quant.top < 2**MOST_BITS
    if not few or inputs > 65535 - 64 or ctx.is_callers(node.inputs[0]):
        return False
    codes, levels = split_levels(weight)
    single, outputs, planes = len(codes) == 1, weight.channels, quant.top.bit_length()
    vector = ctx.target.vector_bytes
    vectors = -(-outputs // vector)
    tile = min({1: 4, 2: 2}.get(planes, 1), vectors)
    tile = ctx.configs.knob(node.name, "tile", tile, [t for t in (1, 2, 3, 4) if t <= vectors])
    arrays = weight.stored
    params = {"shape": list(weight.codes.shape), "vector": vector, "tile": tile}
    made = ctx.constants.add(node.name, "popcount_linear", arrays, params)
    steps, macs = made["inputs"].nbytes // 4 - 1, batch * inputs * outputs
    out = ctx.graph.values[node.outputs[0]].dtype
    parallel = macs > ctx.serial * 40
    spec = Spec(batch, groups_of(inputs), outputs, len(codes), steps, planes, vector, tile, out, parallel, ctx.fma)
    level = levels[0].astype(np.float64) if single else np.ones(outputs)
    flat = codes.astype(np.int64)
    extra = quant.zero_point * flat.sum(2) + (2**planes - 1) * (flat < 0).sum(2)
    unit = quant.scale * node.scale
    numbers = ctx.numbers(node, level * unit, node.bias - unit * (extra * levels.astype(np.float64)).sum(0))
    pad = spec.padded - outputs
    numbers = {**numbers, "scale": np.pad(numbers["scale"], (0, pad)), "bias": np.pad(numbers["bias"], (0, pad))}
    numbers["level"] = np.pad(levels, ((0, 0), (0, pad)))
    numeric = ctx.constants.add(node.name, "raw", numbers)
    reason = (
        f"{batch} row{'s' * (batch > 1)} of {planes} bit{'s' * (planes > 1)}: counts bits, eight weights at once; "
        f"{steps} of {spec.blocks * len(codes) * -(-inputs // WORD)} steps of weights"
    )
    ctx.report(node, weight, NAME, reason)
    nonzero = batch * int(np.count_nonzero(codes))
    info = {"macs": macs, "nonzero_macs": nonzero, "bytes_weights": weight.nbytes(), "reason": reason}
    own = [_bits(ctx, node, planes), made["masks"], made["inputs"], made["bounds"]]
    own += [numeric[name] for name in ("level", "scale", "bias", "params")]
    ctx.add_step(node, NAME, spec, [*own, ctx.new_plain(node.outputs[0])], info)
    return True


def _bits(ctx: Lowering, node: Fused, planes: int) -> Buffer:
    """The bits of a layer's input; packed here unless another layer did."""
    name = node.inputs[0]
    key = ("rows of bits", name)
    if key not in ctx.derived:
        shape = ctx.graph.values[name].shape
        spec = repack_bit_rows.Spec(prod(shape[:-1]), shape[-1], planes)
        ctx.derived[key] = Buffer(f"{name}:bits", spec.batch * planes * spec.groups * 4)
        info = {"op": "Pack", "reason": f"{name}: bits for counting"}
        args = [ctx.plain(name), ctx.derived[key]]
        ctx.add_copy(f"{name}/bits", repack_bit_rows.NAME, spec, args, info)
    return ctx.derived[key]
