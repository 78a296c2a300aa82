"""Lowers a fused graph to launches of the kernels of this package."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from tvm_schedules.backends.gpu.kernels import conv_dot, global_pool, linear, linear_dot, pool, repack
from tvm_schedules.backends.gpu.kernels import dense_conv as dense
from tvm_schedules.backends.gpu.kernels import sparse_conv as sparse
from tvm_schedules.backends.gpu.schedules import spread
from tvm_schedules.fallback.subgraph import lower_subgraph
from tvm_schedules.lowering.base import Lowering, name_of

if TYPE_CHECKING:
    from tvm_schedules.ir.graph import Graph, Node
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["SKIP_ZEROS", "GpuLowering"]

KERNELS = (conv_dot, sparse, dense, linear_dot, linear, pool, global_pool)
"""In order of preference: the first whose ``lower`` takes a node has it."""

SKIP_ZEROS = {"opencl": 0.4, "mali": 0.6, "adreno": 0.6}
"""Share of zeros from which adding taps up is taken to be cheaper than dot products, by target; others: 0.9.

By counting loads and operations: a dot product of four is one operation where the processor has it (CUDA; Metal's
compiler and OpenCL's differ) and eight where it has not, a tap costs a load and an addition.
"""


class GpuLowering(Lowering):
    """The CPU's lowering with other kernels: layouts, constants and fusions are the same.

    Attributes:
        skip_zeros: Share of zeros from which ternary convolutions skip them.
        shuffle: Whether threads can read each other's registers.
    """

    kernels = KERNELS
    emitters = MappingProxyType({name_of(kernel): kernel.emit for kernel in (*KERNELS, repack)})
    units = False

    def __init__(self, graph: Graph, target: TargetSpec) -> None:
        super().__init__(graph, target)
        self.skip_zeros = SKIP_ZEROS.get(target.name, SKIP_ZEROS.get(str(target.tvm["kind"]), 0.9))
        self.shuffle = target.tvm["kind"] == "cuda"

    def _lower_others(self, nodes: list[Node]) -> None:
        if nodes:
            lower_subgraph(self, nodes, spread)
