"""Lowers a fused graph with the kernels that exist in C, in planes that take as little memory as they can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from tvm_schedules.backends.c import operators
from tvm_schedules.backends.c.kernels import dense_conv, global_pool, linear, pool, repack, sparse_conv
from tvm_schedules.backends.c.layout import Tight
from tvm_schedules.backends.c.operators.elementwise import PREFIX
from tvm_schedules.backends.c.site import Site
from tvm_schedules.errors import UnsupportedOperatorError
from tvm_schedules.ir.graph import Fused, Graph, Node, Pool, Recurrent
from tvm_schedules.lowering.base import Copier, Kernel, Lowering, by_name
from tvm_schedules.lowering.layouts import Layouts
from tvm_schedules.targets.registry import TargetSpec

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

    def __init__(self, graph: Graph, target: TargetSpec) -> None:
        super().__init__(_with_activations(graph), target)
        self._readers, self._makers = self.graph.consumers(), self.graph.producers()

    def lay_out(self, planes: list[Node]) -> Layouts:
        """Planes that share the halo between them."""
        return Layouts(self.graph, planes, Tight)

    def code(self, kernel: str, spec: Any) -> Callable[[], Any]:
        """What makes the code of a step: here the translation, which needs the step's numbers and its place too."""
        emit = self.emitters[kernel]
        return lambda: emit

    def _lower(self, node: Node) -> None:
        if isinstance(node, Recurrent):
            self.lower_fallback([node])
        elif node.op != "QuantizeLinear" or node.outputs[0] not in self._plain:  # an operator may have rounded already
            super()._lower(node)

    def lower_fallback(self, nodes: list[Node]) -> None:
        """Appends the steps of operators over plain tensors, see :mod:`.operators`.

        Raises:
            UnsupportedOperatorError: One has no C.
        """
        for node in nodes:
            if not operators.lower(Site(self, node, self._readers, self._makers)):
                raise self._refused(node)

    def _refused(self, node: Node) -> UnsupportedOperatorError:
        reads = f"reads {node.inputs[0]!r}" if node.inputs else "has no input"
        names = ", ".join(name for name in operators.known() if ":" not in name)
        known = f"this form of the operator {node.op}" if node.op in operators.known() else f"the operator {node.op}"
        return UnsupportedOperatorError(
            f"target c has no code for {known} of node {node.name!r}, which {reads}. It has convolutions, linear "
            f"layers, pooling, QuantizeLinear, DequantizeLinear, Reshape, Flatten, {names}. Replace the operator in "
            "the network, end the network before it and compute the rest in your program, or choose a target with TVM, "
            "such as 'arm'"
        )


def _with_activations(graph: Graph) -> Graph:
    """A graph in which an activation function that a layer would compute is one node behind it, not the file's many."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Fused) and node.activation and not isinstance(node, Pool):
            rounding = node.tail[-1:] if node.tail[-1].op == "QuantizeLinear" else []
            out = rounding[0].inputs[0] if rounding else node.outputs[0]
            nodes.append(replace(node, activation=None, tail=[], outputs=[node.early]))
            nodes += [
                Node(f"{node.name}/{node.activation}", f"{PREFIX}{node.activation}", [node.early], [out]),
                *rounding,
            ]
        else:
            nodes.append(node)
    return replace(graph, nodes=nodes)
