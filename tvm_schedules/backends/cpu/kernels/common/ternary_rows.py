"""A ternary layer over planes as the kernels over whole-number pixels see it: rows of codes with a level each."""

from __future__ import annotations

from dataclasses import asdict
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.cpu.kernels.common.pixel_rows import PixelRows
from tvm_schedules.ir.graph import Fused, Linear, Windowed
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.epilogue import Destination, PlanesCall
from tvm_schedules.lowering.layouts import in_planes, input_key, window_of
from tvm_schedules.lowering.rules.sparse_conv import pixel_block, row_chunks, row_splits
from tvm_schedules.lowering.steps import Buffer
from tvm_schedules.packing.tap_lists import split_levels

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["MOST_BITS", "TernaryRows"]

MOST_BITS = 4
"""Bits of a low-bit activation at most."""


class TernaryRows:
    """A convolution, or a linear layer of many rows as a convolution of one pixel. Looking at it changes nothing.

    Attributes:
        x: Layout of the input.
        codes: int8 ``[terms, O, C / groups, kd, kh, kw]``; a term with unequal levels counts as two.
        levels: float32 ``[terms, O]``.
    """

    def __init__(self, ctx: Lowering, node: Fused, weight: TernaryTensor) -> None:
        self.ctx, self.node = ctx, node
        self.linear = isinstance(node, Linear)
        if self.linear:
            codes = weight.codes.reshape(*weight.codes.shape, 1, 1, 1)
            weight = TernaryTensor(codes, weight.positive, weight.negative, 0)
        self.weight, self.window = weight, window_of(node)
        self.key = input_key(ctx.graph, node)
        self.x, self.quant = ctx.layouts[self.key], ctx.input_quant(node)
        self.codes, self.levels = split_levels(weight)

    @classmethod
    def take(cls, ctx: Lowering, node: Fused, bits: int = MOST_BITS, floats: bool = False) -> TernaryRows | None:
        """The layer, if it is ternary, in planes, and its pixels have at most ``bits`` bits, or may be ``floats``."""
        weight = node.weight if isinstance(node, Windowed | Linear) else None
        if not isinstance(weight, TernaryTensor) or not in_planes(ctx.graph, node):
            return None
        found = cls(ctx, node, weight)
        if found.x.dtype == "uint8":
            return found if 1 <= found.quant.top < 2**bits else None
        return found if floats else None

    @property
    def single(self) -> bool:
        """Whether every row has one level, which the epilogue's scale can hold."""
        return len(self.codes) == 1

    @property
    def taps(self) -> int:
        """Codes that are not zero."""
        return int(np.count_nonzero(self.codes))

    @property
    def longest(self) -> int:
        """The most codes of one sign in a row of a term."""
        flat = self.codes.reshape(-1, prod(self.codes.shape[2:]))
        return int(max((flat > 0).sum(1).max(), (flat < 0).sum(1).max()))

    @property
    def dense(self) -> int:
        """How many weights there are in a term, zeros too."""
        return prod(self.weight.codes.shape[1:])

    def numbers(self, minus: int = 0) -> dict[str, np.ndarray]:
        """Scale, bias and params of the epilogue.

        Args:
            minus: Excess of the kernel's accumulators for every code of -1.
        """
        level = self.levels[0].astype(np.float64) if self.single else np.ones(self.weight.channels)
        flat = self.codes.reshape(*self.codes.shape[:2], -1).astype(np.int64)
        extra = (
            (self.quant.zero_point * flat.sum(2) + minus * (flat < 0).sum(2)) * self.levels.astype(np.float64)
        ).sum(0)
        unit = self.quant.scale * self.node.scale
        return self.ctx.numbers(self.node, level * unit, self.node.bias - unit * extra)

    def constants(self, packing: str, x: Any, **params: Any) -> dict[str, Any]:
        """Stores the weight, and returns the buffers that the packing makes of it."""
        shape = list(self.weight.codes.shape)
        params = {"shape": shape, "window": asdict(self.window), "x": asdict(x), **params}
        return self.ctx.constants.add(self.node.name, packing, self.weight.stored, params)

    def geometry(self, x: Any, pieces: int, usual: tuple[int, int]) -> tuple[PixelRows, Destination]:
        """What the specifications of kernels have in common, and where they put the output.

        Args:
            x: Layout of what the kernel reads.
            pieces: Segments.
            usual: Vectors of a pixel block, and the most for an image of one block.
        """
        end = self.ctx.destination(self.node, self.linear, self.x)
        ep = end.epilogue
        vector, rows = self.ctx.target.vector_bytes, self.weight.channels
        vectors = -(-x.run(ep.size) // vector)
        several = 0 if self.single and pieces == rows else pieces
        knob, name, most = self.ctx.configs.knob, self.node.name, min(vectors, usual[1])
        block = pixel_block(vectors, vector, usual, x, self.window)
        block = knob(name, "block", block, range(min(2, most), most + 1, 2))
        chunks = knob(name, "chunks", row_chunks(rows, -(-vectors // block)), row_splits(rows))
        parallel = self.taps * vectors * vector > self.ctx.serial * 16
        return PixelRows(x, rows, several, vector, block, chunks, parallel, ep), end

    def finish(
        self,
        kernel: str,
        spec: PixelRows,
        inputs: list[Buffer],
        numbers: dict[str, np.ndarray],
        end: Destination,
        reason: str,
        stored: int | None = None,
    ) -> None:
        """Appends the call.

        Args:
            kernel: The kernel's name.
            spec: All that its code depends on.
            inputs: The arguments before those of the epilogue.
            numbers: Scale, bias and params of the epilogue.
            end: Where the output goes.
            reason: Why this kernel, for reports.
            stored: The weight's bytes where it is not in the file of weights.
        """
        pixels = self.x.batch * prod(spec.epilogue.size)
        work = {"macs": self.dense * pixels, "nonzero_macs": self.taps * pixels}
        info = {**work, "bytes_weights": self.weight.nbytes(), "reason": reason}
        self.ctx.report(self.node, self.weight, kernel, reason, stored)
        self.ctx.add_planes(self.node, PlanesCall(kernel, spec, inputs, numbers, end, info))
