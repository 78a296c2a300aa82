"""Lowers a fused graph to launches of the graphics processors' kernels."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from tvm_schedules.backends.gpu.kernels import (
    conv_dot,
    dense_conv,
    global_pool,
    linear,
    linear_dot,
    pool,
    repack,
    sparse_conv,
    sparse_conv_patterns,
)
from tvm_schedules.backends.gpu.schedules import spread
from tvm_schedules.fallback.subgraph import lower_subgraph
from tvm_schedules.ir.graph import Node
from tvm_schedules.lowering.base import Copier, Kernel, Lowering, by_name

__all__ = ["COPIERS", "KERNELS", "GpuLowering"]

KERNELS: Sequence[Kernel] = (
    sparse_conv_patterns,
    conv_dot,
    sparse_conv,
    dense_conv,
    linear_dot,
    linear,
    pool,
    global_pool,
)
"""In order of preference: the first whose ``lower`` takes a node has it."""

COPIERS: Sequence[Copier] = (repack,)
"""Copies into other layouts, which the lowering asks for."""


class GpuLowering(Lowering):
    """Lowers one graph for one kind of graphics processor."""

    kernels = KERNELS
    emitters = MappingProxyType(by_name([*KERNELS, *COPIERS]))
    fma = False

    def lower_fallback(self, nodes: list[Node]) -> None:
        """Appends the steps of operators without a kernel: TVM's, spread over threads."""
        lower_subgraph(self, nodes, spread)
