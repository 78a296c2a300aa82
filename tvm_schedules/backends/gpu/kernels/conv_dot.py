"""Convolution of 8-bit activations by dot products of four bytes: 8-bit weights, and ternary ones with few zeros.

A thread has a few output channels of a few pixels. It packs four taps of a pixel into a word once and multiplies it
with the words of all its channels, which all threads of the group read at the same place. Weights are stored with
``plus`` added, so that everything is unsigned; the pixels' own sum takes that out again. Where there are few pixels,
several slices of threads share the taps and add up in shared memory.

Depthwise and grouped convolutions are the same kernel with few channels a thread.

Bound by dot products; without an instruction for them, by the eight operations that stand for one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.gpu.kernels.common.epilogue import arguments, covered, finish, is_pixel
from tvm_schedules.compat.gpu import Argument, GpuEmitter, Kernel
from tvm_schedules.ir.graph import Fused, Linear, Windowed
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.epilogue import Epilogue, PlanesCall
from tvm_schedules.lowering.layouts import in_planes, input_key, window_of
from tvm_schedules.targets.registry import TargetSpec

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "conv_dot"
"""What artifacts and tuning databases call this kernel."""

ONES = 0x01010101
THREADS = 64
ENOUGH_GROUPS = 512
"""Groups of threads from which a processor is taken to be busy; below, channels are spread over more of them."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8.
        window: Geometry.
        rows: Output channels.
        tile: Output channels a thread.
        each: Pixels a thread.
        slices: Threads that share the taps of a pixel.
        plus: What was added to the weights.
        epilogue: What follows the accumulation: scale, bias, residual, clip, rounding.
    """

    x: Halo
    window: Window
    rows: int
    tile: int
    each: int
    slices: int
    plus: int
    epilogue: Epilogue

    @property
    def quads(self) -> int:
        """Words of four taps, a multiple of the slices."""
        taps = self.x.channels // self.window.groups * prod(self.window.kernel)
        return -(-taps // (4 * self.slices)) * self.slices

    @property
    def pixels(self) -> int:
        """Elements of the mask."""
        return self.x.run(self.epilogue.size)


def emit(spec: Spec) -> Kernel:
    """Makes the kernel: ``x, words, offsets, <epilogue>``."""
    ep, x, tile, each, slices = spec.epilogue, spec.x, spec.tile, spec.each, spec.slices
    per_group = spec.rows // spec.window.groups
    blocks, quads = -(-per_group // tile), spec.quads
    lanes = THREADS // slices  # pixels side by side
    total = covered(ep)
    vector = 4 if tile % 4 == 0 else 1
    step = x.channels // spec.window.groups * x.phases * x.plane
    own = [
        Argument("x", "uint8", x.elements),
        Argument("words", "uint32", spec.window.groups * blocks * quads * tile),
        Argument("offsets", "int32", quads * 4),
    ]

    def body(e: GpuEmitter, group: Any, t: Any, *views: Any) -> None:
        bx, words, offsets = views[:3]
        part, n = group[1] // blocks, group[2]
        lane, mine = (t % lanes, t // lanes) if slices > 1 else (t, e.integer(0))
        places = [e.keep(group[0] * (lanes * each) + v * lanes + lane - ep.out.front, "int32") for v in range(each)]
        inside = [is_pixel(e, ep.out, ep.size, p) for p in places]
        base = n * (x.channels * x.phases * x.plane) + part * step
        starts = [e.keep(e.either(p, 0, i) + base, "int32") for p, i in zip(places, inside, strict=True)]
        count = (tile + 1) * each  # the last row adds up the pixels
        acc, taps = e.local(count, "uint32"), e.local(4, "int32")
        pixel, weight = e.local(each, "uint32"), e.local(tile, "uint32")
        for i in range(count):
            e.store(acc, i, e.const(0, "uint32"))
        with e.loop(quads // slices) as k:
            quad = e.keep(k * slices + mine, "int32")
            e.store(taps, 0, e.load(offsets, quad * 4, 4), 4)
            for r in range(0, tile, vector):
                e.store(weight, r, e.load(words, (group[1] * quads + quad) * tile + r, vector), vector)
            for v in range(each):
                parts = [e.cast(e.load(bx, e.load(taps, i) + starts[v]), "uint32") for i in range(4)]
                word = parts[0]
                for i in range(1, 4):
                    word = word | (parts[i] << e.const(8 * i, "uint32"))
                e.store(pixel, v, word)
                for r in range(tile + 1):
                    factor = e.load(weight, r) if r < tile else e.const(ONES, "uint32")
                    at = r * each + v
                    e.store(acc, at, e.extern("uint32", "tern_dot", e.load(pixel, v), factor, e.load(acc, at)))
        if slices > 1:
            shared = e.shared(count * THREADS, "uint32")
            for i in range(count):
                e.store(shared, i * THREADS + t, e.load(acc, i))
            e.barrier()
            for i in range(count):
                value = e.load(shared, i * THREADS + lane)
                for s in range(1, slices):
                    value = value + e.load(shared, i * THREADS + s * lanes + lane)
                e.store(acc, i, value)
        for r in range(tile):
            inner = group[1] % blocks * tile + r
            mine_too = (mine == r % slices) if slices > 1 else None
            conditions = [inner < per_group] if per_group % tile else []
            conditions += [] if mine_too is None else [mine_too]
            for v in range(each):
                raw = e.load(acc, r * each + v) - e.load(acc, tile * each + v) * e.const(spec.plus, "uint32")
                value = e.cast(e.bits(raw, "int32"), "float32")
                if conditions:
                    with e.when(e.both(*conditions)):
                        finish(e, ep, views[3:], value, n, part * per_group + inner, places[v], inside[v])
                else:
                    finish(e, ep, views[3:], value, n, part * per_group + inner, places[v], inside[v])

    grid = (-(-total // (lanes * each)), spec.window.groups * blocks, x.batch)
    return Kernel([*own, *arguments(ep, spec.rows, spec.pixels)], grid, THREADS, body)


SKIP_ZEROS = {"opencl": 0.4, "mali": 0.6, "adreno": 0.6}
"""Share of zeros from which adding taps up is taken to be cheaper than dot products, by target; others: 0.9.

By counting loads and operations: a dot product of four is one operation where the processor has it (CUDA; Metal's
compiler and OpenCL's differ) and eight where it has not, a tap costs a load and an addition.
"""


def skip_zeros(target: TargetSpec) -> float:
    """Share of zeros from which ternary convolutions skip them, by a target's name or else its kind."""
    return SKIP_ZEROS.get(target.name, SKIP_ZEROS.get(str(target.tvm["kind"]), 0.9))


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes convolutions of 8-bit activations with 8-bit weights, or ternary ones with too few zeros to skip."""
    if not isinstance(node, Windowed | Linear) or not in_planes(ctx.graph, node):
        return False
    if ctx.graph.values[node.inputs[0]].dtype != "uint8" or node.weight is None:
        return False
    rows, window, weight = isinstance(node, Linear), window_of(node), node.weight
    arrays: dict[str, np.ndarray]
    if isinstance(weight, TernaryTensor):
        if weight.terms > 1 or not weight.is_symmetric or weight.sparsity() >= skip_zeros(ctx.target):
            return False
        full, plus = weight.per_channel, 1
        values, scale = weight.codes[0], full.positive[0]
        arrays = weight.stored
        stored, reason = weight.nbytes(), f"{weight.sparsity():.1%} zeros are too few to skip: dot products of four"
    else:
        values, scale, plus, arrays = weight.values, weight.scale, 128, {"values": weight.values}
        stored, reason = values.nbytes, "dense int8 weight, dot products of four"
        if values.dtype != np.int8 or int(values.min()) < -127:
            return False
    if rows:
        values = values.reshape(*values.shape, 1, 1, 1)
    outputs, taps = values.shape[0], prod(values.shape[1:])
    if 255 * 255 * (taps + 32) >= 1 << 32:
        return False
    key = input_key(ctx.graph, node)
    source, x, quant = ctx.packed(key), ctx.layouts[key], ctx.input_quant(node)
    factor = scale.astype(np.float64) * quant.scale * node.scale
    sums = values.reshape(outputs, -1).astype(np.float64).sum(1)
    numbers = ctx.numbers(node, factor, node.bias - quant.zero_point * factor * sums)
    end = ctx.destination(node, rows, x)
    ep = end.epilogue
    tile, each, slices = _shape(covered(ep), outputs // window.groups, window.groups * x.batch, taps)
    params = {"window": asdict(window), "x": asdict(x), "tile": tile, "slices": slices, "plus": plus}
    made = ctx.constants.add(node.name, "gpu_conv_dot", arrays, {**params, "shape": [1, *values.shape]})
    spec = Spec(x, window, outputs, tile, each, slices, plus, ep)
    pixels = x.batch * prod(ep.size)
    nonzero = int(np.count_nonzero(values)) * pixels
    info = {"macs": values.size * pixels, "nonzero_macs": nonzero, "bytes_weights": stored, "reason": reason}
    ctx.report(node, weight, NAME, reason)
    ctx.add_planes(node, PlanesCall(NAME, spec, [source, made["words"], made["offsets"]], numbers, end, info))
    return True


def _shape(pixels: int, rows: int, others: int, taps: int) -> tuple[int, int, int]:
    """Channels a thread, pixels a thread, slices: as many of the first as leave enough groups to be busy with."""
    for tile, each in ((16, 2), (16, 1), (8, 1)):
        groups = -(-pixels // (THREADS * each)) * -(-rows // tile) * others
        if rows > tile // 2 and groups >= ENOUGH_GROUPS and (each == 1 or pixels >= 4 * THREADS):
            return min(tile, rows), each, 1
    tile = min(rows, 8)
    for slices in (1, 2, 4):
        groups = -(-pixels * slices // THREADS) * -(-rows // tile) * others
        if groups >= ENOUGH_GROUPS or taps < 64 * slices:
            return tile, 1, slices
    return tile, 1, 4
