"""Rule of the dense convolution by multiply-add: float weights, and 8-bit ones where no dot product is better."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from tvm_schedules.ir.graph import DenseWeight, Fused, Windowed
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.lowering.epilogue import Epilogue, PlanesCall
from tvm_schedules.lowering.layouts import input_key

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "lower"]

Sums = Literal["floats", "integers", "pairs"]

NAME = "dense"
"""What artifacts and tuning databases call this kernel."""


PANEL_BYTES = 128 << 10
"""Bytes of a panel at most: it is read in order, for which the second-level cache is near enough."""

JOBS = 16
"""Jobs of a layer with panels at least, if there are enough output channels."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        x: Layout of the input, uint8 or float32.
        window: Geometry.
        rows: Output channels.
        vector: Bytes a vector register.
        block: Vectors a pixel block.
        tile: Output channels a register block.
        parallel: Whether threads share the jobs.
        epilogue: What follows the accumulation: scale, bias, residual, clip, rounding.
        sums: How products are added: ``floats``; ``integers``, 16-bit ones into 32-bit sums (Arm's SMLAL); or
            ``pairs``, two such products at once (x86's PMADDWD).
        chunks: Parts of a group's register blocks of output channels, for threads, where those of a part share a panel
            of pairs of pixels; else 0.
    """

    x: Halo
    window: Window
    rows: int
    vector: int
    block: int
    tile: int
    parallel: bool
    epilogue: Epilogue
    sums: Sums = "floats"
    chunks: int = 0

    @property
    def lanes(self) -> int:
        """Pixels a vector."""
        return self.vector // (2 if self.sums == "integers" else 4)

    @property
    def pixels(self) -> int:
        """Elements that the kernel stores in a plane: whole vectors."""
        return -(-self.x.run(self.epilogue.size) // self.lanes) * self.lanes


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes convolutions with a dense weight."""
    if not isinstance(node, Windowed) or not isinstance(node.weight, DenseWeight):
        return False
    weight, window, key = node.weight, node.window, input_key(ctx.graph, node)
    source, x, quant = ctx.packed(key), ctx.layouts[key], ctx.input_quant(node)
    channels, vector = weight.values.shape[0], ctx.target.vector_bytes
    depthwise = window.groups == channels > 1
    sums, end = _sums(ctx, x, weight.values, depthwise), ctx.destination(node, False, x)
    vectors = -(-x.run(end.epilogue.size) // (vector // (2 if sums == "integers" else 4)))
    together = sums == "pairs" and vector == 32 and vectors >= 4 and _stores_bytes(end.epilogue)
    tile = _tile(channels // window.groups, 2 if together else 4 if vector == 32 else 8)
    tile = ctx.configs.knob(node.name, "tile", tile, [t for t in (2, 4, 6, 8) if channels // window.groups >= t])
    factor = weight.scale.astype(np.float64) * quant.scale * node.scale
    of_weights = weight.values.reshape(channels, -1).astype(np.float64).sum(1)
    numbers = ctx.numbers(node, factor, node.bias - quant.zero_point * factor * of_weights)
    dtype = "float32" if sums == "floats" else "int16"
    params = {"window": asdict(window), "x": asdict(x), "tile": tile, "dtype": dtype, "pairs": sums == "pairs"}
    made = ctx.constants.add(node.name, "dense", {"values": weight.values}, params)
    # What the registers hold of sums; of AVX-512's they would hold three vectors, but two are faster, measured.
    most = 8 if tile == 1 else 1 if sums == "integers" else 2 if vector == 64 or sums == "pairs" else 3
    most = 4 if together else most
    macs = weight.values.size * x.batch * prod(end.epilogue.size)
    block = min(vectors, most)
    block = ctx.configs.knob(node.name, "block", block, [b for b in (1, 2, 3, 4, 6) if b <= vectors])
    parallel = macs > ctx.serial * 4
    chunks = _chunks(weight.values, window, tile, block * vector, vectors // block) if sums == "pairs" else 0
    spec = Spec(x, window, channels, vector, block, tile, parallel, end.epilogue, sums, chunks)
    reason = "depthwise, multiply-add" if depthwise else f"dense {weight.values.dtype} weight, multiply-add"
    info = {"macs": macs, "nonzero_macs": macs, "bytes_weights": weight.values.nbytes, "reason": reason}
    ctx.report(node, weight, NAME, reason)
    inputs = [source, made["values"], made["offsets"]]
    ctx.add_planes(node, PlanesCall(NAME, spec, inputs, numbers, end, info))
    return True


def _sums(ctx: Lowering, x: Halo, values: np.ndarray, depthwise: bool) -> Sums:
    """How products are added up; 32 bits hold the sum of 65 000 products of 8-bit integers.

    In depthwise layers a pixel has one use, for which putting pairs together takes longer than it saves.
    """
    if x.dtype != "uint8" or values.dtype != np.int8 or values[0].size >= 65_000:
        return "floats"
    if ctx.target.arm64:
        return "integers"
    return "pairs" if ctx.target.architecture == "x86_64" and not depthwise else "floats"


def _stores_bytes(epilogue: Epilogue) -> bool:
    """Whether four vectors become one of bytes: instructions that saturate do it for a whole one at once."""
    return {epilogue.out.dtype, epilogue.residual.dtype if epilogue.residual else "uint8"} == {"uint8"}


def _chunks(values: np.ndarray, window: Window, tile: int, size: int, blocks: int) -> int:
    """Parts of a group's register blocks of output channels that share a panel, 0 without panels.

    Args:
        values: The weight.
        window: Geometry.
        tile: Output channels a register block.
        size: Bytes of a block of pixels for two taps.
        blocks: Blocks of pixels.
    """
    row_blocks = -(-values.shape[0] // window.groups // tile)
    if row_blocks < 2 or -(-values[0].size // 2) * size > PANEL_BYTES:
        return 0
    return min(row_blocks // 2, -(-JOBS // max(1, blocks)))


def _tile(rows: int, most: int) -> int:
    """Output channels a register block: a divisor of the rows if there is a fair one, else blocks with a ragged end."""
    if rows <= most:
        return rows
    best = max(d for d in range(1, most + 1) if rows % d == 0)
    return best if best * 2 > most else most
