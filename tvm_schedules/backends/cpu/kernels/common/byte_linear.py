"""What the kernels of linear layers of bytes share when a layer is lowered: which they take, and its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tvm_schedules.ir.graph import DenseWeight, Fused, Linear
from tvm_schedules.ir.ternary_tensor import TernaryTensor

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["ByteLinear"]


class _Padded(Protocol):
    """The part of a kernel's specification that the numbers depend on."""

    @property
    def padded(self) -> int:
        """Output channels rounded up to whole register blocks."""


@dataclass(frozen=True)
class ByteLinear:
    """A linear layer of 8-bit activations with ternary weights of one level a channel, or with int8 ones."""

    ctx: Lowering
    node: Linear
    weight: DenseWeight | TernaryTensor

    @classmethod
    def take(cls, ctx: Lowering, node: Fused) -> ByteLinear | None:
        """The layer, if the node is one."""
        if not isinstance(node, Linear) or node.weight is None or ctx.graph.values[node.inputs[0]].dtype != "uint8":
            return None
        weight = node.weight
        if isinstance(weight, TernaryTensor):
            simple = weight.terms == 1 and weight.is_symmetric
        else:
            simple = weight.values.dtype == np.int8
        return cls(ctx, node, weight) if simple else None

    @property
    def ternary(self) -> bool:
        """Whether the weights are codes."""
        return isinstance(self.weight, TernaryTensor)

    @property
    def values(self) -> np.ndarray:
        """Weights or codes, int8 ``[O, K]``."""
        return self.weight.codes[0] if isinstance(self.weight, TernaryTensor) else self.weight.values

    @property
    def batch(self) -> int:
        """Rows."""
        return prod(self.ctx.graph.values[self.node.inputs[0]].shape[:-1])

    @property
    def inputs(self) -> int:
        """Inputs of a row."""
        return int(self.values.shape[1])

    @property
    def outputs(self) -> int:
        """Output channels."""
        return int(self.values.shape[0])

    @property
    def macs(self) -> int:
        """Products, those with zeros too."""
        return self.batch * self.values.size

    @property
    def out(self) -> str:
        """Type of the output."""
        return self.ctx.graph.values[self.node.outputs[0]].dtype

    @property
    def residual(self) -> str | None:
        """Type of the residual, if there is one."""
        return self.ctx.graph.values[self.node.residual].dtype if self.node.residual else None

    def fits(self, most: int, step: int) -> bool:
        """Whether there are few enough inputs, and whether a vector may reach past their end.

        Args:
            most: Inputs at most.
            step: Inputs that are read at once. The caller's own memory may not be read past its end.
        """
        return self.inputs <= most and not (self.inputs % step and self.ctx.is_callers(self.node.inputs[0]))

    def finish(self, kernel: str, spec: _Padded, params: dict[str, Any], how: str, offset: int = 0) -> None:
        """Appends the step.

        Args:
            kernel: The kernel's name, which its packing has too.
            spec: The kernel's specification.
            params: Arguments of the packing beside shape and kind of the weights.
            how: The first words of the reason.
            offset: What pixels enter less.
        """
        ctx, node, weight, quant = self.ctx, self.node, self.weight, self.ctx.input_quant(self.node)
        source = ctx.plain(node.inputs[0])
        if isinstance(weight, TernaryTensor):
            level, arrays, stored = weight.per_channel.positive[0], weight.stored, weight.nbytes()
            zeros, shape = weight.sparsity(), list(weight.codes.shape)
        else:
            level, arrays, stored, zeros, shape = weight.scale, {"values": weight.values}, weight.values.nbytes, 0.0, []
        unit = level.astype(np.float64) * quant.scale * node.scale
        sums = self.values.astype(np.float64).sum(1)
        numbers = ctx.numbers(node, unit, node.bias - (quant.zero_point - offset) * unit * sums)
        for name in ("scale", "bias"):
            numbers[name] = np.pad(numbers[name], (0, spec.padded - self.outputs))
        made = ctx.constants.add(node.name, kernel, arrays, {"shape": shape, "ternary": self.ternary, **params})
        numeric = ctx.constants.add(node.name, "raw", numbers)
        rows = f"{self.batch} row{'s' * (self.batch > 1)}"
        reason = f"{rows}: {how}, weights in {2 if self.ternary else 8} bits"
        ctx.report(node, weight, kernel, reason)
        # Zeros are read and multiplied like all others.
        info = {"macs": self.macs, "nonzero_macs": round(self.macs * (1 - zeros)), "work": self.macs}
        info |= {"bytes_weights": stored}
        residuals = [ctx.plain(node.residual)] if node.residual else []
        given = [made["values"], *(numeric[name] for name in ("scale", "bias", "params")), *residuals]
        args = [source, *given, ctx.new_plain(node.outputs[0])]
        ctx.add_step(node, kernel, spec, args, {**info, "reason": reason})
