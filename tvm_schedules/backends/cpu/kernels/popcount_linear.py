"""Linear layers over few rows of activations of few bits: eight weights of an output at once, by counting bits.

The formula is that of :mod:`.popcount_conv`; here output channels are the vector lanes. A step of weights is eight
inputs of as many outputs as a vector has bytes: a vector of masks for the additions and one for the subtractions, two
bits a weight. Steps in which no output of a register block has a weight are left out.

Bound by reading the masks, and for several bits by counting.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from tvm_schedules.packing.popcount_linear import CHUNK, groups_of
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
    arguments = [("x", "uint32"), ("masks", "uint8"), ("inputs", "int32"), ("bounds", "int32"), ("level", "float32")]
    arguments += [("scale", "float32"), ("bias", "float32"), ("params", "float32"), ("out", spec.out)]

    def body(e: Emitter, *pointers: Any) -> None:
        sizes = [spec.batch * spec.planes * spec.groups, max(1, spec.steps) * spec.tile * 2 * spec.vector]
        sizes += [spec.steps + 1, spec.blocks * spec.terms + 1]
        sizes += [spec.terms * spec.padded, spec.padded, spec.padded, 4]
        views = [e.view(p, n, t) for p, n, (_, t) in zip(pointers, sizes, arguments, strict=False)]
        out = e.view(pointers[-1], spec.batch * spec.outputs, spec.out)
        _Code(e, spec, [*views, out]).jobs()

    return kernel_function(arguments, body)


class _Code:
    """The code of one function.

    Attributes:
        half: Output channels of which a vector of 16 bits holds the counts.
        bytes: Counts in bytes, by plane and vector of output channels.
        halves: Counts in 16 bits, of each of these the even bytes and the odd ones.
    """

    bytes: list[Any]
    halves: list[Any]

    def __init__(self, e: Emitter, spec: Spec, views: Sequence[Any]) -> None:
        self.e, self.spec, self.half = e, spec, spec.vector // 2
        self.x, self.masks, self.inputs, self.bounds, self.level, self.scale, self.bias, self.params, self.out = views
        self.u8, self.u16, self.f32 = f"uint8x{spec.vector}", f"uint16x{self.half}", f"float32x{self.half}"

    def jobs(self) -> None:
        """All jobs: a register block of output channels for a row each."""
        e, spec, half = self.e, self.spec, self.half
        tile = spec.tile
        with e.jobs(spec.batch * spec.blocks, spec.parallel) as job:
            m, block = job // spec.blocks, job % spec.blocks
            self.bytes = [e.local(spec.vector, "uint8") for _ in range(spec.planes * tile)]
            self.halves = [e.local(half, "uint16") for _ in range(2 * spec.planes * tile)]
            totals = [e.local(half, "float32") for _ in range(2 * tile)] if spec.terms > 1 else []
            places = [(block * (2 * tile) + 2 * t + k) * half for t in range(tile) for k in range(2)]
            if not totals:
                self._term(m, block)
                for index, place in enumerate(places):
                    self._finish(self._value(index // 2, index % 2), m, place)
                return
            for total in totals:
                e.store(total, 0, e.const(0.0, self.f32), half)
            with e.loop(spec.terms) as i:
                self._term(m, block * spec.terms + i)
                for index, (total, place) in enumerate(zip(totals, places, strict=True)):
                    weight = e.load(self.level, i * spec.padded + place, half)
                    own, old = self._value(index // 2, index % 2), e.load(total, 0, half)
                    e.store(total, 0, e.fma(own, weight, old) if spec.fma else old + own * weight, half)
            for total, place in zip(totals, places, strict=True):
                self._finish(e.load(total, 0, half), m, place)

    def _term(self, m: Any, run: Any) -> None:
        """Counts one term of a register block."""
        e = self.e
        for part in self.halves:
            e.store(part, 0, e.const(0, self.u16), self.half)
        first, last = e.load(self.bounds, run), e.load(self.bounds, run + 1)
        whole = (last - first) // ONCE
        with e.loop(whole) as i:
            self._count(m, first + i * ONCE, ONCE)
        with e.when(last - first > whole * ONCE):
            self._count(m, first + whole * ONCE, last - first - whole * ONCE)

    def _count(self, m: Any, first: Any, length: Any) -> None:
        """Counts as many steps as bytes hold, and adds the counts to those in 16 bits."""
        e, spec, vector, tile = self.e, self.spec, self.spec.vector, self.spec.tile
        for part in self.bytes:
            e.store(part, 0, e.const(0, self.u8), vector)
        with e.loop(length) as j:
            group = e.load(self.inputs, first + j) + m * (spec.planes * spec.groups)
            at = (first + j) * (tile * 2 * vector)
            pairs = [[e.load(self.masks, at + (2 * t + s) * vector, vector) for s in range(2)] for t in range(tile)]
            for b in range(spec.planes):
                bits = e.bits(e.splat(e.load(self.x, group + b * spec.groups), vector // 4), self.u8)
                for t, (plus, minus) in enumerate(pairs):
                    found = e.intrinsic(self.u8, "llvm.ctpop", (bits & plus) | (~bits & minus))
                    part = self.bytes[b * tile + t]
                    e.store(part, 0, e.load(part, 0, vector) + found, vector)
        for index, part in enumerate(self.bytes):
            word = e.bits(e.load(part, 0, vector), self.u16)
            for k, term in enumerate((word & e.const(255, self.u16), word >> e.const(8, self.u16))):
                total = self.halves[2 * index + k]
                e.store(total, 0, e.load(total, 0, self.half) + term, self.half)

    def _value(self, t: int, k: int) -> Any:
        """The counts of all planes, each times its worth, of half a vector of output channels."""
        e, total = self.e, None
        for b in range(self.spec.planes):
            part = e.cast(e.load(self.halves[2 * (b * self.spec.tile + t) + k], 0, self.half), self.f32)
            part = part * e.const(float(2**b), self.f32) if b else part
            total = part if total is None else total + part
        return total

    def _finish(self, y: Any, m: Any, first: Any) -> None:
        """Scales, clips, rounds and stores half a vector of output channels, those that there are."""
        e, spec, half = self.e, self.spec, self.half
        factor, offset = e.load(self.scale, first, half), e.load(self.bias, first, half)
        y = e.fma(y, factor, offset) if spec.fma else y * factor + offset
        low, high = (e.splat(e.load(self.params, i), half) for i in (1, 2))
        y = e.min(e.max(y, low), high)
        if spec.out == "uint8":
            y = e.cast(e.bits(y + e.const(MAGIC, self.f32), f"int32x{half}"), f"uint8x{half}")
        with e.when(first + half <= spec.outputs):
            e.store(self.out, m * spec.outputs + first, y, half)
        if spec.outputs % half:
            rest = e.local(half, spec.out)
            e.store(rest, 0, y, half)
            with e.loop(spec.outputs % half) as i, e.when((first < spec.outputs) & (first + half > spec.outputs)):
                e.store(self.out, m * spec.outputs + first + i, e.load(rest, i))


MOST_INPUTS = 65_535 - CHUNK
"""Inputs at most, with the chunk past the end that may be read: what 16-bit counts hold."""


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes ternary linear layers of few rows whose inputs have few bits."""
    weight = node.weight if isinstance(node, Linear) else None
    x, quant = ctx.graph.values[node.inputs[0]], ctx.input_quant(node)
    if not isinstance(weight, TernaryTensor) or node.residual or not counts_bytes(ctx.target):
        return False
    batch, inputs = prod(x.shape[:-1]), x.shape[-1]
    few = x.dtype == "uint8" and 1 <= quant.top < 2**MOST_BITS
    if not few or inputs > MOST_INPUTS or ctx.is_callers(node.inputs[0]):
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
