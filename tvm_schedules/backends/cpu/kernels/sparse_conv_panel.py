"""Offset-sparse ternary convolution over panels: the sums of :mod:`.sparse_conv` by aligned loads from L1.

The taps of a convolution start at any byte, and a load of a whole cache line that is not aligned takes two. Here the
pixels that a block of output pixels reads are first copied into a panel, once for every tap of some input channels
(taps that are a multiple of a line apart share the copy), and the output channels then read the panel: every load is
aligned, and the panel stays in the cache until the last of them is done. The sums of a panel wait in memory, as 16-bit
words while they cannot overflow, as float32 from there on.

Images whose rows are a quarter, half or all of a vector have them interleaved over the vectors of a block (see
:func:`.panel_copies.interleaved_copies`): a panel is half as large then, and an image of few vectors is one block, so
that lists are read once. Where there is room for a byte behind every seven pixels, the accumulators take two additions
a vector instead of three operations (see :class:`.accumulators.SevenOfEight`).

Bound by aligned loads from the first-level cache, two a cycle, and for short lists by the branches at their ends.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.kernels.common.accumulators import Bytes, Floats
from tvm_schedules.backends.cpu.kernels.common.panel_copies import geometry, has_room_for_seven_of_eight
from tvm_schedules.backends.cpu.kernels.common.panel_sums import Code, Spec
from tvm_schedules.backends.cpu.kernels.common.ternary_rows import TernaryRows
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused
from tvm_schedules.ir.layout import ALIGN
from tvm_schedules.lowering.layouts import home
from tvm_schedules.lowering.rules.sparse_conv import row_chunks, row_splits
from tvm_schedules.packing.panel_lists import longest
from tvm_schedules.packing.tap_lists import taps_limit
from tvm_schedules.targets.registry import SMALLEST_L1

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "panel"
"""What artifacts and tuning databases call this kernel."""

L1_SHARE = 6 / 7
"""What part of 32 KiB, the smallest first-level cache, a panel may take, with the sums that pass through.

Of the whole cache where rows are interleaved; others were not faster for more.
"""

FLOAT_PANEL = 40_000
"""Bytes of a panel of floats, whose longer blocks read a list less often: the second-level cache is near enough."""

JOB_CHANNELS = 128
"""Output channels a job at least, each of which makes its panels anew."""


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, offsets, bounds, order, groups, <epilogue>``."""
    arguments = [("x", spec.x.dtype), *((name, dtype) for name, dtype, _ in spec.lists)]

    def body(e: Emitter, *pointers: Any) -> None:
        Code(e, spec, pointers).jobs()

    return kernel_function([*arguments, *spec.epilogue.arguments], body)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes ternary convolutions of one group and one level a row that do not fit the first-level cache."""
    layer = TernaryRows.take(ctx, node, 8, floats=True)
    vector = ctx.target.vector_bytes
    if layer is None or layer.linear or not layer.single or layer.window.groups != 1 or vector != 64:
        return False
    x, rows = layer.x, layer.weight.channels
    floats, lanes = x.dtype == "float32", vector // x.itemsize
    knob, name = ctx.configs.knob, node.name
    vectors = -(-x.run(layer.window.output(x.dims)) // lanes)
    # Threads share output channels only where there are many.
    written = ctx.layouts[home(ctx.graph, node.outputs[0], False)]
    least, space = 1 if rows >= 2 * JOB_CHANNELS else 2, written.plane - written.origin
    found = geometry(layer.window, x, vectors, least, space, lambda *asked: knob(name, *asked))
    if found is None:
        return False
    held, interleaving, block = found
    room = FLOAT_PANEL if floats else int(L1_SHARE * (ctx.target.l1_bytes if interleaving else SMALLEST_L1))
    spaced = not floats and bool(interleaving or x.pitch[1] == 8) and has_room_for_seven_of_eight(layer.window, x)
    channel = held.channel
    # Copying has to pay by many output channels; of short lists over a large image it did not, measured.
    long = floats or interleaving is not None or vectors <= 16 or layer.taps >= 0.11 * layer.dense
    pays = long and layer.taps >= 7 * x.channels * (channel // (block * lanes))
    # A single tap is aligned where it is.
    pays = pays and (vectors == 1 or prod(layer.window.kernel) > 1)
    # One vector is worth a panel even where all of the image would fit: its lists are long runs of aligned loads.
    large = vectors == 1 or floats or x.channels * x.phases * x.plane * x.itemsize > room
    if (
        channel * x.itemsize > room
        or len(held.places) > taps_limit(x, layer.quant.top)
        or not ctx.configs.selects(name, NAME, pays and large)
    ):
        return False
    most = room // (channel * x.itemsize)
    channels = knob(name, "channels", most, (most // 2, 65535 // channel))
    channels = -(-x.channels // -(-x.channels // max(1, min(channels, 65535 // channel, x.channels))))
    limit = taps_limit(x, layer.quant.top)
    while channels > 1 and longest(layer.codes[0], channels) > limit:
        channels -= 1
    chunks = max(1, min(row_chunks(rows, -(-vectors // block)), rows // JOB_CHANNELS))
    chunks = knob(name, "chunks", chunks, row_splits(rows))
    parallel = layer.taps * vectors * lanes > ctx.serial * 16
    # Of few blocks an odd one would be waited for by a second thread.
    blocks = -(-x.run(layer.window.output(x.dims)) // (interleaving.step(lanes) if interleaving else block * lanes))
    halves = not floats and chunks == 1 and 1 < blocks < 16 and blocks % 2 == 1
    source = ctx.packed(layer.key)
    mean = layer.taps / (2 * rows * -(-x.channels // channels))
    # Lists that are read once or twice had better be easy to foresee, others as short as they can be.
    few = mean < (20 if vectors == 1 else 16)
    unroll = 1 if floats else 4 if interleaving or (few and vectors == 1) else 2 if few else 8 if vectors <= 4 else 4
    unroll = knob(name, "unroll", unroll, (1, 2, 4) if floats else (2, 4, 8))
    given = {"places": list(held.places), "channel": channel, "channels": channels, "limit": limit}
    made = layer.constants("panel", x, **given, share=-(-rows // (2 if halves else chunks)), unroll=unroll)
    end = ctx.destination(node, False, x, (Floats if floats else Bytes).unit)
    ep = end.epilogue
    taps, groups = made["offsets"].nbytes // 2 - 1, made["groups"].nbytes // 4 - 1
    once = 1 if floats else next(n for n in (8, 4, 2, 1) if n <= unroll and n * layer.quant.top <= 255)
    rest: dict[str, Any] = {"halves": halves, "channels": channels, "groups": groups, "unroll": unroll, "once": once}
    spec = Spec(
        x,
        rows,
        0,
        vector,
        block,
        chunks,
        parallel,
        ep,
        taps=taps,
        copies=held,
        interleaving=interleaving,
        seven_of_eight=spaced,
        **rest,
    )
    # The last block may read rows below the image.
    beyond = -(-x.run(ep.size) // spec.step) * spec.step
    ctx.largest_read = max(ctx.largest_read, x.itemsize * (beyond + x.plane + ALIGN))
    own = [source, *(made[part] for part in ("offsets", "bounds", "order", "groups"))]
    reason = f"{layer.weight.sparsity():.1%} zeros: adds and subtracts {layer.taps} of {layer.dense} taps, in panels"
    layer.finish(NAME, spec, own, layer.numbers(), end, reason)
    return True
