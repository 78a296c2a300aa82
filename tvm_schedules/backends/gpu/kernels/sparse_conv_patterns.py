"""Offset-sparse ternary convolution of several output channels at once: taps are added up before channels share them.

As :mod:`.sparse_conv`, but a thread computes two to four output channels, those that have their zeros at the same
places if there are any. What their codes are at one tap is a pattern; the pixels of all taps of one pattern are added
up first, and that sum then enters the channels. So an offset and a pixel are loaded once for all of them. The lists are
those of the CPU's kernel of this name.

Applies to ternary layers in planes that are one group and have one level a row.
Bound by loads: each addition of a list loads a pixel, most of them from a cache.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.gpu.kernels.common.epilogue import arguments, covered, finish, is_pixel
from tvm_schedules.backends.gpu.kernels.conv_dot import ENOUGH_GROUPS, skip_zeros
from tvm_schedules.backends.gpu.kernels.sparse_conv import THREADS, pixels_a_thread
from tvm_schedules.compat.gpu import Argument, GpuEmitter, Kernel
from tvm_schedules.ir.graph import Fused, Linear, Windowed
from tvm_schedules.ir.layout import Halo
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.epilogue import Epilogue, PlanesCall
from tvm_schedules.lowering.layouts import in_planes, input_key, window_of
from tvm_schedules.packing import pattern_lists

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "patterns"
"""What artifacts call this kernel."""

SIZES = (2, 3, 4)
"""Output channels a thread."""
JOIN = 0.5
"""What adding a list's sum to a channel takes, in taps: an addition without a load."""
LIST = 1.5
"""What a list takes beside its taps, in taps: two loads of bounds and a branch, for all pixels of a thread."""
MARGIN = 0.8
"""Share of another kernel's time that this one may take at most: both are counted, not measured."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8 or float32.
        rows: Output channels.
        size: Output channels a thread.
        patterns: The patterns that there are lists of, see :mod:`tvm_schedules.packing.pattern_lists`.
        taps: Offsets in all.
        index: Type of the offsets.
        epilogue: What follows the accumulation: scale, bias, residual, clip, rounding.
    """

    x: Halo
    rows: int
    size: int
    patterns: tuple[int, ...]
    taps: int
    index: str
    epilogue: Epilogue

    @property
    def groups(self) -> int:
        """Groups of output channels, the last of which may lack some."""
        return -(-self.rows // self.size)

    @property
    def pixels(self) -> int:
        """Elements of the mask."""
        return self.x.run(self.epilogue.size)


def emit(spec: Spec) -> Kernel:
    """Makes the kernel: ``x, offsets, bounds, members, <epilogue>``."""
    ep, x, size, lists = spec.epilogue, spec.x, spec.size, 2 * len(spec.patterns)
    own = [
        Argument("x", x.dtype, x.elements),
        Argument("offsets", spec.index, spec.taps),
        Argument("bounds", "int32", spec.groups * lists + 1),
        Argument("members", "int32", spec.groups * size),
    ]
    total = covered(ep)
    each = pixels_a_thread(total)
    kind = "int32" if x.dtype == "uint8" else "float32"
    image = x.channels * x.phases * x.plane

    def body(e: GpuEmitter, group: Any, t: Any, *views: Any) -> None:
        bx, offsets, bounds, members = views[:4]
        places = [e.keep(group[0] * (THREADS * each) + v * THREADS + t - ep.out.front, "int32") for v in range(each)]
        inside = [is_pixel(e, ep.out, ep.size, p) for p in places]
        # Threads without a pixel read the first one, so that the loops need no test.
        starts = [e.keep(e.either(p, 0, i) + group[2] * image, "int32") for p, i in zip(places, inside, strict=True)]
        acc, sums = e.local(size * each, kind), e.local(each, kind)
        for i in range(size * each):
            e.store(acc, i, e.const(0, kind))

        def add_up(first: Any, last: Any, sign: int) -> None:
            with e.loop(last - first) as j:
                where = e.keep(e.cast(e.load(offsets, first + j), "int32"), "int32")
                for v in range(each):
                    old, value = e.load(sums, v), e.cast(e.load(bx, where + starts[v]), kind)
                    e.store(sums, v, old + value if sign > 0 else old - value)

        def join(pattern: int) -> None:
            for k, code in enumerate(pattern_lists.digits(pattern, size)):
                for v in range(each if code else 0):
                    old, value = e.load(acc, k * each + v), e.load(sums, v)
                    e.store(acc, k * each + v, old + value if code > 0 else old - value)

        for i, pattern in enumerate(spec.patterns):
            first, middle, last = (e.keep(e.load(bounds, group[1] * lists + 2 * i + b), "int32") for b in range(3))
            with e.when(first < last):
                for v in range(each):
                    e.store(sums, v, e.const(0, kind))
                add_up(first, middle, +1)
                add_up(middle, last, -1)
                join(pattern)
        for k in range(size):
            with e.when(group[1] * size + k < spec.rows):
                o = e.keep(e.load(members, group[1] * size + k), "int32")
                for v in range(each):
                    value = e.cast(e.load(acc, k * each + v), "float32")
                    finish(e, ep, views[4:], value, group[2], o, places[v], inside[v])

    grid = (-(-total // (THREADS * each)), spec.groups, x.batch)
    return Kernel([*own, *arguments(ep, spec.rows, spec.pixels)], grid, THREADS, body)


def _choice(ctx: Lowering, codes: np.ndarray, floats: bool, pixels: int, batch: int) -> tuple[int, bool]:
    """Output channels a thread, and whether that is then taken to be faster than other kernels.

    A thread of more channels saves loads, but there are fewer threads: a processor that has too few anyway is left to
    threads of one channel.

    Args:
        ctx: The lowering.
        codes: int8 ``[O, taps]``.
        floats: Whether activations are floats, which no kernel multiplies.
        pixels: Pixels of an output plane.
        batch: Images.
    """
    each, times = pixels_a_thread(pixels), {}
    for size in SIZES:
        work = pattern_lists.work(codes[None], pattern_lists.members(codes, size), codes.shape[1])
        times[size] = work.taps + JOIN * work.joins + LIST / each * work.lists
    size = min(times, key=lambda one: times[one])
    busy = -(-pixels // (THREADS * each)) * -(-len(codes) // size) * batch >= ENOUGH_GROUPS
    lists, products = float(np.count_nonzero(codes)), (1 - skip_zeros(ctx.target)) * codes.size
    return size, busy and times[size] < MARGIN * (lists if floats else min(lists, products))


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes ternary convolutions of one group and one level a row whose channels have many taps in common."""
    weight = node.weight if isinstance(node, Windowed | Linear) else None
    if not isinstance(weight, TernaryTensor) or not in_planes(ctx.graph, node):
        return False
    window, rows = window_of(node), weight.channels
    codes = weight.codes[0].reshape(rows, -1)
    if weight.terms > 1 or not weight.is_symmetric or window.groups != 1 or rows < 2 or not codes.any():
        return False
    key = input_key(ctx.graph, node)
    x, quant, linear = ctx.layouts[key], ctx.input_quant(node), isinstance(node, Linear)
    pixels = prod(window.output(x.dims))
    size, pays = _choice(ctx, codes, x.dtype == "float32", pixels, x.batch)
    if not pays:
        return False
    patterns = pattern_lists.used(codes[None], pattern_lists.members(codes, size))
    index = "uint16" if x.channels * x.phases * x.plane <= 1 << 16 else "int32"
    shape = list(weight.codes.shape) if not linear else [*weight.codes.shape, 1, 1, 1]
    params = {"shape": shape, "window": asdict(window), "x": asdict(x), "size": size, "index": index}
    made = ctx.constants.add(node.name, "patterns", weight.stored, params)
    taps = made["offsets"].nbytes // np.dtype(index).itemsize
    factor = weight.per_channel.positive[0].astype(np.float64) * quant.scale * node.scale
    numbers = ctx.numbers(node, factor, node.bias - quant.zero_point * factor * codes.astype(np.int64).sum(1))
    end = ctx.destination(node, linear, x, ctx.sum_unit(x))
    spec = Spec(x, rows, size, patterns, taps, index, end.epilogue)
    inputs = [ctx.packed(key), *(made[name] for name in ("offsets", "bounds", "members"))]
    pixels, nonzero = x.batch * pixels, int(np.count_nonzero(codes))
    together = f"{size} channels at a time add {taps} pixels for {nonzero} of {codes.size} taps"
    reason = f"{weight.sparsity():.1%} zeros: {together}"
    info = {"macs": codes.size * pixels, "nonzero_macs": nonzero * pixels, "bytes_weights": weight.nbytes()}
    ctx.report(node, weight, NAME, reason)
    ctx.add_planes(node, PlanesCall(NAME, spec, inputs, numbers, end, {**info, "reason": reason}))
    return True
