"""What the dense kernels of dot products share when a layer is lowered: which they take, and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.cpu.kernels.common.dot_product import Dot, available, beats_sparse
from tvm_schedules.ir.graph import DenseWeight, Fused, Linear, Windowed
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.epilogue import Epilogue, PlanesCall
from tvm_schedules.lowering.layouts import in_planes, input_key, window_of

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["DotLayer"]


@dataclass(frozen=True)
class DotLayer:
    """An 8-bit convolution with 8-bit weights, or with ternary ones that have too few zeros for adding up taps.

    Ternary linear layers of many rows are convolutions of one pixel.
    """

    ctx: Lowering
    node: Windowed | Linear
    weight: DenseWeight | TernaryTensor
    dot: Dot
    x: Halo

    @classmethod
    def take(cls, ctx: Lowering, node: Fused, kernel: str, suits: Callable[[DotLayer], bool]) -> DotLayer | None:
        """The layer, if ``kernel`` shall have it.

        Args:
            ctx: The lowering.
            node: A node of the graph, whatever it computes.
            kernel: Name of the kernel.
            suits: Whether it is the fastest of those that compute dot products; a given choice overrules it.
        """
        dot = available(ctx.target)
        if dot is None or not isinstance(node, Windowed | Linear) or node.weight is None:
            return None
        if isinstance(node, Linear) and not (dot.arm and in_planes(ctx.graph, node)):
            return None
        if ctx.graph.values[node.inputs[0]].dtype != "uint8":
            return None
        layer = cls(ctx, node, node.weight, dot, ctx.layouts[input_key(ctx.graph, node)])
        if isinstance(node.weight, TernaryTensor):
            simple = node.weight.terms == 1 and node.weight.is_symmetric
            pixels = prod(layer.window.output(layer.x.dims))
            better = beats_sparse(ctx.target, node.weight, ctx.input_quant(node).top, pixels)
        else:
            simple, better = node.weight.values.dtype == np.int8, True
        if not simple or layer.rows // layer.window.groups < 4 or prod(layer.values.shape[1:]) < 4:
            return None
        return layer if ctx.configs.selects(node.name, kernel, better and suits(layer)) else None

    @property
    def window(self) -> Window:
        """Geometry."""
        return window_of(self.node)

    @property
    def values(self) -> np.ndarray:
        """Weights or codes, int8 ``[O, C / groups, kd, kh, kw]``."""
        found = self.weight.codes[0] if isinstance(self.weight, TernaryTensor) else self.weight.values
        return found.reshape(*found.shape, 1, 1, 1) if isinstance(self.node, Linear) else found

    @property
    def rows(self) -> int:
        """Output channels."""
        return int(self.values.shape[0])

    @property
    def parallel(self) -> bool:
        """Whether there is enough to do for threads."""
        pixels = self.x.batch * prod(self.window.output(self.x.dims))
        return bool(self.values.size * pixels > self.ctx.serial * 16)

    def finish(
        self,
        kernel: str,
        params: dict[str, Any],
        spec: Callable[[Epilogue], Any],
        how: str = "",
        packing: str = "dense_dot",
        arrays: Sequence[str] = ("values", "offsets"),
    ) -> None:
        """Appends the call.

        Args:
            kernel: The kernel's name.
            params: Arguments of the packing beside geometry and shape.
            spec: ``spec(epilogue)`` makes the specification.
            how: Added to the reason.
            packing: Of the weights.
            arrays: What it makes, in the order of the kernel's arguments.
        """
        ctx, node, values = self.ctx, self.node, self.values
        if isinstance(self.weight, TernaryTensor):
            scale, stored_arrays = self.weight.per_channel.positive[0], self.weight.stored
            nonzero, stored = int(np.count_nonzero(values)), self.weight.nbytes()
            reason = f"{self.weight.sparsity():.1%} zeros are too few to skip: dot products of four"
        else:
            scale, stored_arrays = self.weight.scale, {"values": values}
            nonzero, stored, reason = values.size, values.nbytes, "dense int8 weight, dot products of four"
        source, quant = ctx.packed(input_key(ctx.graph, node)), ctx.input_quant(node)
        factor = scale.astype(np.float64) * quant.scale * node.scale
        sums = values.reshape(self.rows, -1).astype(np.float64).sum(1)
        numbers = ctx.numbers(node, factor, node.bias - (quant.zero_point - self.dot.offset) * factor * sums)
        params = {"window": asdict(self.window), "x": asdict(self.x), **params, "shape": [1, *values.shape]}
        made = ctx.constants.add(node.name, packing, stored_arrays, params)
        end = ctx.destination(node, isinstance(node, Linear), self.x)
        pixels = self.x.batch * prod(end.epilogue.size)
        work = {"macs": values.size * pixels, "nonzero_macs": nonzero * pixels, "bytes_weights": stored}
        info = {**work, "reason": reason + how}
        ctx.report(node, self.weight, kernel, reason + how)
        inputs = [source, *(made[name] for name in arrays)]
        ctx.add_planes(node, PlanesCall(kernel, spec(end.epilogue), inputs, numbers, end, info))
