"""Lowers a fused graph to calls of the CPU's kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tvm_schedules.backends.cpu.in_place import in_place
from tvm_schedules.backends.cpu.kernels import (
    attention,
    dense_conv,
    dense_conv_dot,
    dense_conv_dot_channels,
    dense_conv_dot_panel,
    dense_conv_widened_panel,
    dense_conv_winograd,
    depthwise_conv_dot,
    depthwise_conv_widened,
    global_pool,
    linear,
    linear_dot,
    linear_pairs,
    linear_widened,
    max_pool_stride2,
    pool,
    popcount_conv,
    popcount_linear,
    recurrent,
    repack,
    repack_bit_planes,
    repack_bit_rows,
    scatter,
    sparse_conv,
    sparse_conv_low_bit,
    sparse_conv_panel,
    sparse_conv_patterns,
    sparse_conv_unrolled,
)
from tvm_schedules.backends.cpu.kernels.common.accumulators import accumulators_of
from tvm_schedules.backends.cpu.schedules import schedule_program
from tvm_schedules.fallback.subgraph import lower_subgraph
from tvm_schedules.ir.graph import Fused, Graph, Node
from tvm_schedules.ir.layout import Halo
from tvm_schedules.lowering.attention import with_attention
from tvm_schedules.lowering.base import Copier, Kernel, Lowering, by_name
from tvm_schedules.lowering.early_rounding import with_early_rounding
from tvm_schedules.lowering.joined import with_rounded_parts
from tvm_schedules.lowering.layouts import Layouts, in_planes
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.lowering.split_layers import with_split_layers
from tvm_schedules.targets.registry import TargetSpec

__all__ = ["COPIERS", "KERNELS", "CpuLowering"]

KERNELS: Sequence[Kernel] = (
    scatter,
    depthwise_conv_dot,
    depthwise_conv_widened,
    popcount_conv,
    dense_conv_winograd,
    sparse_conv_patterns,
    dense_conv_dot_channels,
    dense_conv_dot,
    dense_conv_dot_panel,
    dense_conv_widened_panel,
    sparse_conv_low_bit,
    sparse_conv_unrolled,
    sparse_conv_panel,
    sparse_conv,
    dense_conv,
    popcount_linear,
    linear_dot,
    linear_widened,
    linear_pairs,
    linear,
    max_pool_stride2,
    pool,
    global_pool,
    recurrent,
    attention,
)
"""In order of preference: the first whose ``lower`` takes a node has it."""

COPIERS: Sequence[Copier] = (repack, repack_bit_planes, repack_bit_rows)
"""Copies into other layouts, which the lowering and the kernels ask for."""


class CpuLowering(Lowering):
    """Lowers one graph for one CPU."""

    kernels = KERNELS
    emitters = MappingProxyType(by_name([*KERNELS, *COPIERS]))

    def __init__(self, graph: Graph, target: TargetSpec, overrides: Mapping[str, ScheduleConfig] | None = None) -> None:
        self.fma = "fma" in target.features or "aarch64" in str(target.tvm.get("mtriple", ""))
        graph = with_early_rounding(with_rounded_parts(with_split_layers(graph)))
        graph, carried = in_place(with_attention(graph))
        super().__init__(graph, target, overrides)
        self.carried = carried

    def activates(self, graph: Graph, node: Fused) -> bool:
        """Kernels in planes compute them; for few rows there is nothing to gain."""
        return in_planes(graph, node)

    def lay_out(self, planes: list[Node]) -> Layouts:
        """Rows of a part of a vector where vectors are a cache line; poolings that need no phases read none."""
        wide = self.target.vector_bytes if self.target.vector_bytes == 64 else 0
        return Layouts(self.graph, planes, vector=wide, rows=True)

    def sum_unit(self, x: Halo) -> float:
        """See :class:`~tvm_schedules.lowering.base.Lowering`: sums of bytes may be the high halves of 32 bits."""
        return float(accumulators_of(x.dtype, self.target.arm64).unit)

    def lower_fallback(self, nodes: list[Node]) -> None:
        """Appends the steps of operators without a kernel: TVM's, with our schedules."""
        lower_subgraph(self, nodes, schedule_program)
