"""Lowers a fused graph with the kernels that exist in C, in planes that take as little memory as they can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

from tvm_schedules.backends.c.kernels import dense_conv, global_pool, linear, pool, repack, sparse_conv
from tvm_schedules.backends.c.layout import Tight
from tvm_schedules.errors import UnsupportedOperatorError
from tvm_schedules.ir.graph import Node
from tvm_schedules.lowering.base import Copier, Kernel, Lowering, by_name
from tvm_schedules.lowering.layouts import Layouts

__all__ = ["CLowering"]

KERNELS: Sequence[Kernel] = (sparse_conv, dense_conv, linear, pool, global_pool)
"""In order of preference: the first whose ``lower`` takes a node has it."""

COPIERS: Sequence[Copier] = (repack,)
"""Copies into other layouts, which the lowering asks for."""


class CLowering(Lowering):
    """Lowers one graph with the kernels that exist in C."""

    kernels = KERNELS
    emitters = MappingProxyType(by_name([*KERNELS, *COPIERS]))
    fma = True

    def lay_out(self, planes: list[Node]) -> Layouts:
        """Planes that share the halo between them."""
        return Layouts(self.graph, planes, Tight)

    def code(self, kernel: str, spec: Any) -> Callable[[], Any]:
        """What makes the code of a step: here the translation, which needs the step's numbers and its place too."""
        emit = self.emitters[kernel]
        return lambda: emit

    def lower_fallback(self, nodes: list[Node]) -> None:
        """There is C for the kernels only.

        Raises:
            UnsupportedOperatorError: Always.
        """
        node = nodes[0]
        reads = f"reads {node.inputs[0]!r}" if node.inputs else "has no input"
        raise UnsupportedOperatorError(
            f"target c has no code for the operator {node.op} of node {node.name!r}, which {reads}. It has "
            "convolutions, linear layers, Add of two images, Relu, Clip, batch normalization, pooling, QuantizeLinear, "
            "DequantizeLinear, Reshape and Flatten. Replace the operator in the network, end the network before it and "
            "compute the rest in your program, or choose a target with TVM, such as 'arm'"
        )
