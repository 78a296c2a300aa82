"""Lowers a fused graph with the kernels that exist in C, in planes that take as little memory as they can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from tvm_schedules.backends.c import operators
from tvm_schedules.backends.c.kernels import dense_conv, global_pool, linear, pool, repack, sparse_conv
from tvm_schedules.backends.c.layout import Parted, Sampled, Tight, Written
from tvm_schedules.backends.c.operators.elementwise import PREFIX
from tvm_schedules.backends.c.phases import read_in_phases
from tvm_schedules.backends.c.sampling import OPERATOR as SAMPLE
from tvm_schedules.backends.c.sampling import sampled
from tvm_schedules.backends.c.site import Site
from tvm_schedules.errors import UnsupportedOperatorError
from tvm_schedules.ir.graph import Attention, Fused, Graph, Node, Pool, Recurrent, Windowed
from tvm_schedules.ir.layout import Halo, Triple
from tvm_schedules.lowering.attention import with_attention
from tvm_schedules.lowering.base import Copier, Kernel, Lowering, by_name
from tvm_schedules.lowering.epilogue import Destination
from tvm_schedules.lowering.layouts import Key, Layouts, home, in_planes, input_key
from tvm_schedules.lowering.rules import repack as copies
from tvm_schedules.lowering.steps import Buffer
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

    def __init__(self, graph: Graph, target: TargetSpec, phases: bool = False) -> None:
        """Prepares it; with ``phases`` kernels write these where all readers read them."""
        graph, self._samples = sampled(_with_activations(with_attention(graph, fewest_rows=1)))
        super().__init__(graph, target)
        self._readers, self._makers = self.graph.consumers(), self.graph.producers()
        self.phases = read_in_phases(self.graph, self._samples) if phases else {}
        self._unread: set[Key] = set()
        """Phases that kernels have written and nobody has read yet."""

    def activates(self, graph: Graph, node: Fused) -> bool:
        """Kernels in planes compute them, of results that become bytes, which would have to be floats before."""
        return _activates(graph, node)

    def lay_out(self, planes: list[Node]) -> Layouts:
        """Planes that share the halo between them; what has no halo has no gaps between its rows either."""
        return Layouts(self.graph, planes, Tight, apart=True)

    def destination(self, node: Fused, rows: bool, x: Halo, unit: float = 1.0) -> Destination:
        """See :class:`Lowering`; with memory for rows that are written at the pitch of the input first."""
        end = super().destination(node, rows, x, unit)
        key, written = self.phases.get(node.outputs[0]), x.run(end.epilogue.size)
        out: Written | Parted = Written(**vars(end.epilogue.out), written=written)
        if key is not None:
            del self._packed[home(self.graph, node.outputs[0])]
            self._packed[key] = end.out
            self._unread.add(key)
            out = Parted(**vars(self.layouts[key]), written=written)
        end.out.nbytes = out.nbytes
        return replace(end, epilogue=replace(end.epilogue, out=out))

    def packed(self, key: Key) -> Buffer:
        """See :class:`Lowering`; what is made of a phase is made as soon as the phases are there."""
        if key in self._packed and key not in self._unread:
            return self._packed[key]
        self._unread.discard(key)
        if key.value not in self._samples:
            buffer = super().packed(key)
            for name, made in self._samples.items():
                if made == (key.value, key.phase):
                    self.packed(home(self.graph, name))
            return buffer
        source, steps = self._samples[key.value]
        phases = [input_key(self.graph, node) for node in self._readers[source] if in_planes(self.graph, node)]
        for strided in phases:
            if strided.phase == steps:
                self.packed(strided)
        return self._packed[key] if key in self._packed else self._sample(key, source, steps)

    def _sample(self, key: Key, source: str, steps: Triple) -> Buffer:
        """The first of every few pixels, from phases if there are any."""
        origin = self._virtual.get(source, source)
        made = [other for other in self._packed if other.value == origin and not other.rows]
        made.sort(key=lambda other: other.phase != steps)
        layout = self.layouts[key]
        view: Sampled | copies.Strided
        if made and made[0].phase in (steps, (1, 1, 1)):
            there, found = self._packed[made[0]], self.layouts[made[0]]
            view = Sampled(found, layout.dims, (1, 1, 1) if made[0].phase == steps else steps)
        else:
            there, flat = self.plain(origin), copies.strided(self.graph, origin, False)
            image, channel, *sizes = flat.strides
            d, h, w = (size * step for size, step in zip(sizes, steps, strict=True))
            view = replace(flat, dims=layout.dims, strides=(image, channel, d, h, w))
        buffer = Buffer(key.value, layout.nbytes, tail=layout.tail)
        self._repack(origin, there, view, key.value, buffer, layout)
        self._packed[key] = buffer
        return buffer

    def code(self, kernel: str, spec: Any) -> Callable[[], Any]:
        """What makes the code of a step: here the translation, which needs the step's numbers and its place too."""
        emit = self.emitters[kernel]
        return lambda: emit

    def _is_ours(self, node: Node) -> bool:
        return node.op == SAMPLE or super()._is_ours(node)

    def _lower(self, node: Node) -> None:
        if node.op == SAMPLE:
            return
        if isinstance(node, Recurrent | Attention):
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
        reads += f" and is part of {node.origin}" if node.origin else ""
        names = ", ".join(name for name in operators.known() if ":" not in name and name != node.op)
        known = f"this form of the operator {node.op}" if node.op in operators.known() else f"the operator {node.op}"
        return UnsupportedOperatorError(
            f"target c has no code for {known} of node {node.name!r}, which {reads}. It has convolutions, linear "
            f"layers, pooling, QuantizeLinear, DequantizeLinear, Reshape, Flatten, {names}. Replace the operator in "
            "the network, end the network before it and compute the rest in your program, or choose a target with TVM, "
            "such as 'arm', which has more operators"
        )


def _activates(graph: Graph, node: Node) -> bool:
    made = graph.values[node.outputs[0]]
    return isinstance(node, Windowed) and node.residual is None and made.dtype == "uint8" and made.quant is not None


def _with_activations(graph: Graph) -> Graph:
    """A graph in which an activation function that no kernel computes is one node behind its layer."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Fused) and node.activation and not isinstance(node, Pool) and not _activates(graph, node):
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
