"""Lowers a fused graph to kernel calls: walks the nodes, keeps track of where tensors are, repacks between layouts.

A back end derives its lowering from :class:`Lowering` and says which kernels it has; nothing here knows any of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from math import inf, prod
from typing import Any, Protocol

import numpy as np

from tvm_schedules.common.reading import reading_model
from tvm_schedules.errors import ModelError, UnsupportedOperatorError
from tvm_schedules.ir.graph import Fused, Graph, Linear, Node, Quant, Weight, Windowed
from tvm_schedules.ir.layout import Halo, Plain
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.constant_pool import Constants
from tvm_schedules.lowering.epilogue import Destination, Epilogue, PlanesCall, power_factors
from tvm_schedules.lowering.layouts import LOWEST, Layouts, home, in_planes, window_of
from tvm_schedules.lowering.rules import repack
from tvm_schedules.lowering.schedule_config import ScheduleConfig, ScheduleConfigs
from tvm_schedules.lowering.steps import Buffer, Place, Step
from tvm_schedules.passes.activations import split
from tvm_schedules.passes.quantized import COMMUTING
from tvm_schedules.targets.registry import TargetSpec

__all__ = ["Copier", "Kernel", "Lowering", "by_name"]

HIGHEST = -LOWEST


class Copier(Protocol):
    """A module whose code other kernels, or the lowering itself, ask for: copies into another layout."""

    NAME: str
    """What artifacts and tuning databases call it."""
    Spec: type[Any]
    """A frozen dataclass of all that its code depends on; steps with equal ones share the code."""
    emit: Callable[..., Any]
    """Makes the back end's code of a ``Spec``."""


class Kernel(Copier, Protocol):
    """A module that computes layers: the rule that says which, and the code."""

    def lower(self, ctx: Lowering, node: Fused) -> bool:
        """Appends the node's steps to a lowering; False leaves the node to another kernel."""


def by_name(kernels: Sequence[Copier]) -> dict[str, Callable[..., Any]]:
    """What makes the code of each kernel, by the kernel's name."""
    return {kernel.NAME: kernel.emit for kernel in kernels}


class Lowering(ABC):
    """Lowers one graph for one target. After :meth:`run`: ``steps``, ``constants``, ``layers``.

    Attributes:
        kernels: The back end's kernels in order of preference: the first whose ``lower`` takes a node has it.
        emitters: Functions that make the code, by the name of the kernel or copy.
        serial: Element operations below which one thread does a layer while the others wait: data stay where they are.
        fma: Whether the target multiplies and adds with one rounding in one instruction.
    """

    kernels: Sequence[Kernel]
    emitters: Mapping[str, Callable[..., Any]]
    serial: int = 1_000
    fma: bool

    def __init__(self, graph: Graph, target: TargetSpec, overrides: Mapping[str, ScheduleConfig] | None = None) -> None:
        """Takes configurations by the names of nodes; the cost model decides what they leave open."""
        self.graph, self.target = split(graph, lambda node: self.activates(graph, node)), target
        self.configs = ScheduleConfigs(overrides or {})
        self.steps: list[Step] = []
        self.constants = Constants()
        self.layers: list[dict[str, Any]] = []
        self.derived: dict[Any, Buffer] = {}
        """Other forms of tensors that kernels made for themselves, by what they are."""
        self.carried: dict[str, str] = {}
        """Outputs that are inputs apart from a few elements, and these inputs: a back end copies them first of all."""
        self.subgraphs = count()
        """Numbers for the subgraphs of operators without a kernel."""
        self._plain: dict[str, Buffer] = {}
        self._packed: dict[Any, Buffer] = {}
        self._virtual: dict[str, str] = {}
        graph = self.graph
        self._inputs = {name: i for i, name in enumerate(graph.inputs)}
        self._outputs = {name: i for i, name in enumerate(graph.outputs)}
        self.layouts = self.lay_out([n for n in graph.nodes if in_planes(graph, n)])
        self.largest_read = 4096

    # -- what a back end says -----------------------------------------------------------------------------------------
    @abstractmethod
    def lower_fallback(self, nodes: list[Node]) -> None:
        """Appends the steps of nodes without a kernel, one or more that follow one another in execution order.

        Raises:
            ModelError: The back end has no code for them.
        """

    def activates(self, graph: Graph, node: Fused) -> bool:
        """Whether a node has a kernel that computes the activation function behind it, or its gate."""
        return False

    def lay_out(self, planes: list[Node]) -> Layouts:
        """The layouts of what nodes that work in planes read and write."""
        return Layouts(self.graph, planes)

    def sum_unit(self, x: Halo) -> float:
        """What the sums of the kernel of :mod:`.rules.sparse_conv` over pixels ``x`` are multiples of."""
        return 1.0

    def code(self, kernel: str, spec: Any) -> Callable[[], Any]:
        """What makes the code of a step when it is called."""
        emit = self.emitters[kernel]
        return lambda: emit(spec)

    # -- the walk -----------------------------------------------------------------------------------------------------
    @reading_model()
    def run(self) -> None:
        """Lowers all nodes, then the outputs.

        Raises:
            ModelError: A node cannot be lowered.
        """
        for name, index in self._inputs.items():
            self._plain[name] = Buffer(name, self._plain_bytes(name), Place("input", index))
        for name, source in self.carried.items():
            flat = repack.flat(self.graph, name)
            self._repack(source, self.plain(source), flat, name, self.new_plain(name), flat)
        waiting: list[Node] = []
        for node in self.graph.nodes:
            if self._is_ours(node):
                self._fall_back(waiting)
                waiting = []
                self._lower(node)
            else:
                waiting.append(node)
        self._fall_back(waiting)
        for name, index in self._outputs.items():
            self._deliver(name, index)

    def _fall_back(self, nodes: list[Node]) -> None:
        if nodes:
            self.lower_fallback(nodes)

    def _is_ours(self, node: Node) -> bool:
        if isinstance(node, Fused) or (
            node.op in COMMUTING - {"MaxPool"} and node.inputs[0] not in self.graph.constants
        ):
            return True
        names = node.inputs[:1] + node.outputs
        return node.op in ("QuantizeLinear", "DequantizeLinear") and any(
            self.graph.values[n].quant for n in names if n in self.graph.values
        )

    def _lower(self, node: Node) -> None:
        if isinstance(node, Fused):
            if not any(self._takes(kernel, node) for kernel in self._in_order(node)):
                raise UnsupportedOperatorError(
                    f"no kernel of this target takes the {node.op} node {node.name!r}; choose a target for CPUs "
                    "(such as 'host' or 'arm'), or leave the node outside of the network"
                )
        elif node.op in COMMUTING:
            source = self.plain(node.inputs[0])
            self._plain[node.outputs[0]] = Buffer(node.outputs[0], source.nbytes, source.place, source)
        else:
            self._virtual[node.outputs[0]] = node.inputs[0]

    def _in_order(self, node: Node) -> list[Kernel]:
        """Kernels in order of preference, that of an override first."""
        return sorted(self.kernels, key=lambda kernel: not self.configs.selects(node.name, kernel.NAME, False))

    def _takes(self, kernel: Kernel, node: Fused) -> bool:
        self.configs.begin(node.name, kernel.NAME)
        took = bool(kernel.lower(self, node))
        if took:
            self.configs.taken(node.name)
        return took

    # -- tensors ------------------------------------------------------------------------------------------------------
    def _plain_bytes(self, name: str) -> int:
        value = self.graph.values[name]
        return Plain(value.shape, value.dtype).nbytes

    def new_plain(self, name: str) -> Buffer:
        """The plain buffer that a producer of ``name`` writes: the network's output itself where it is one."""
        place = Place("output", self._outputs[name]) if name in self._outputs else None
        self._plain[name] = Buffer(name, self._plain_bytes(name), place)
        return self._plain[name]

    def adopt(self, name: str, buffer: Buffer) -> None:
        """Says that ``buffer`` holds the tensor in plain form."""
        self._plain[name] = buffer

    def plain(self, name: str) -> Buffer:
        """The tensor in plain form; packed or converted first if it is not yet."""
        if name in self._plain:
            return self._plain[name]
        if name in self.graph.constants and name in self._outputs:  # a result that no input changes
            self._plain[name] = self.constants.add(name, "raw", {name: self.graph.constants[name]})[name]
            return self._plain[name]
        if name in self.graph.constants or name in self.graph.weights:
            raise ModelError(f"{name!r} is a constant where a tensor is expected")
        origin = self._virtual.get(name, name)
        rows = next((rows for rows in (False, True) if home(self.graph, origin, rows) in self._packed), None)
        if rows is None and origin not in self._plain and origin not in self._virtual:
            raise ModelError(f"the tensor {name!r} is read before it is written; the graph is not in execution order")
        source = None if rows is not None else self.plain(origin)
        buffer = self.new_plain(name)
        if rows is not None:
            key = home(self.graph, origin, rows)
            strided = repack.strided(self.graph, name, rows)
            self._repack(origin, self._packed[key], self.layouts[key], name, buffer, strided)
        else:
            assert source is not None
            flat = repack.flat(self.graph, name)
            self._repack(origin, source, repack.flat(self.graph, origin), name, buffer, flat)
        return buffer

    def is_callers(self, name: str) -> bool:
        """Whether the tensor in plain form lies in the caller's memory, behind which nothing may be read."""
        place = self.plain(name).root.place
        return place is not None and place.kind in ("input", "output")

    def has_planes(self, name: str) -> bool:
        """Whether the tensor was written in planes of rows, from where :meth:`packed` has it without a copy."""
        return home(self.graph, name, rows=True) in self._packed and name not in self._plain

    def packed(self, key: Any) -> Buffer:
        """The tensor in planes of the layout ``key``."""
        if key in self._packed:
            return self._packed[key]
        layout = self.layouts[key]
        at_home = home(self.graph, key.value, key.rows)
        source = self._virtual.get(key.value, key.value)
        buffer = Buffer(f"{key.value}:{key.phase}", layout.nbytes, tail=layout.tail)
        if at_home in self._packed and at_home != key:
            self._repack(key.value, self._packed[at_home], self.layouts[at_home], key.value, buffer, layout)
        else:
            there = home(self.graph, source, key.rows)
            if there in self._packed:
                self._repack(source, self._packed[there], self.layouts[there], key.value, buffer, layout)
            else:
                strided = repack.strided(self.graph, source, key.rows)
                self._repack(source, self.plain(source), strided, key.value, buffer, layout)
        self._packed[key] = buffer
        return buffer

    def _repack(
        self, name: str, source: Buffer, source_layout: Any, to: str, target: Buffer, target_layout: Any
    ) -> None:
        quant = self.graph.values[to].quant or self.graph.values[name].quant or Quant(1.0, 0)
        params = np.array([quant.scale, quant.zero_point, 0.0, 255.0], np.float32)
        work = source_layout.batch * source_layout.channels * prod(source_layout.dims)
        vector, arch = self.target.vector_bytes, self.target.architecture
        spec = repack.Spec(source_layout, target_layout, vector, work > self.serial, self.fma, arch)
        constant = self.constants.add(f"{to}.repack{len(self.steps)}", "raw", {"params": params})["params"]
        info = {"op": "Repack", "reason": f"{name} {source_layout.dtype} to {target_layout.dtype}, other layout"}
        self.add_copy(f"{to}/repack", repack.NAME, spec, [source, constant, target], info)

    def _deliver(self, name: str, index: int) -> None:
        buffer = self.plain(name)
        if buffer.root.place == Place("output", index):
            return
        out = Buffer(f"{name}/output", self._plain_bytes(name), Place("output", index))
        flat = repack.flat(self.graph, name)
        self._repack(name, buffer, flat, name, out, flat)

    # -- what kernels have in common -----------------------------------------------------------------------------------
    def input_quant(self, node: Fused) -> Quant:
        """Scale and zero point of a node's data; 1 and 0 for float."""
        return self.graph.values[node.inputs[0]].quant or Quant(1.0, 0)

    def numbers(self, node: Fused, factor: np.ndarray, offset: np.ndarray) -> dict[str, np.ndarray]:
        """Scale, bias and params of an epilogue for ``real = acc * factor + offset (+ residual)``."""
        quant = self.graph.values[node.outputs[0]].quant
        end = quant or Quant(1.0, 0)
        out = Quant(1.0, 0) if node.activation else end
        bias, weight = offset.astype(np.float64) / out.scale + out.zero_point, 0.0
        if node.residual:
            residual = self.graph.values[node.residual].quant or Quant(1.0, 0)
            weight = residual.scale / out.scale
            bias = bias - residual.zero_point * weight
        low, high = self._bounds(node)
        scale = factor / out.scale
        if quant and not node.activation:
            # Numbers that stay far inside of 32 bits when multiplied.
            scale, bias = np.clip(scale, -1e4, 1e4), np.clip(bias, -1e8, 1e8)
        after = [1 / end.scale, end.zero_point] if node.activation else []
        params = np.array([weight, low, max(low, high), 0.0, *after], np.float32)
        return {"scale": scale.astype(np.float32), "bias": bias.astype(np.float32), "params": params}

    def _bounds(self, node: Fused) -> tuple[float, float]:
        """What a node's output is clipped to, in units of its quantization step: there the integers they round to."""
        quant = self.graph.values[node.outputs[0]].quant
        if quant is None:
            return max(node.clip.low, LOWEST), min(node.clip.high, HIGHEST)
        low, high = (bound / quant.scale + quant.zero_point for bound in (node.clip.low, node.clip.high))
        # Either may lie on either side of what eight bits hold.
        return float(np.rint(min(max(low, 0.0), 255.0))), float(np.rint(min(max(high, 0.0), 255.0)))

    def _reach(self, node: Fused) -> float:
        """The largest absolute value that a layer can give to its activation function; infinite where nobody knows."""
        quant = self.graph.values[node.inputs[0]].quant
        weight = node.weight if isinstance(node, Windowed | Linear) else None
        if not node.activation or quant is None or weight is None or node.residual:
            return inf
        low, high = ((at - quant.zero_point) * quant.scale for at in (0, quant.top))
        values = np.moveaxis(weight.dequantize(), weight.channel_axis, 0).astype(np.float64)
        values = values.reshape(len(values), -1) * np.reshape(node.scale, (-1, 1))
        bounds = (np.where(values > 0, values * x, values * y).sum(axis=1) for x, y in ((low, high), (high, low)))
        return float(max(np.max(np.abs(bound + node.bias)) for bound in bounds))

    def destination(self, node: Fused, rows: bool, x: Halo, unit: float = 1.0) -> Destination:
        """Where a kernel in planes puts a node's output, and what it does with a sum before that.

        Args:
            node: The node that the kernel computes.
            rows: Whether it is a linear layer in planes.
            x: The layout that the kernel reads.
            unit: The kernel's accumulators are multiples of this number.
        """
        key = home(self.graph, node.outputs[0], rows)
        layout = self.layouts[key]
        buffers, residual = [], None
        if node.residual:
            other = home(self.graph, node.residual, rows)
            buffers, residual = [self.packed(other)], self.layouts[other]
        self._packed[key] = Buffer(node.outputs[0], layout.nbytes, tail=layout.tail)
        size = window_of(node).output(x.dims)
        saturates = self._bounds(node) == ((0.0, 255.0) if layout.dtype == "uint8" else (LOWEST, HIGHEST))
        architecture = self.target.architecture
        factors = power_factors(node.activation, self._reach(node))
        epilogue = Epilogue(layout, size, residual, self.fma, architecture, saturates, unit, node.activation, factors)
        return Destination(epilogue, buffers, self._packed[key])

    def add_step(self, node: Fused, kernel: str, spec: Any, args: list[Buffer], info: dict[str, Any]) -> None:
        """Appends a call of the kernel of a node, by its name."""
        self.add_copy(node.name, kernel, spec, args, {"op": node.op, "fused": node.fused, **info})

    def add_copy(self, name: str, kernel: str, spec: Any, args: list[Buffer], info: dict[str, Any]) -> None:
        """Appends a call of a kernel that no node asks for, such as a copy into another layout."""
        self.steps.append(Step(name, kernel, spec, self.code(kernel, spec), args, info))

    def add_planes(self, node: Fused, call: PlanesCall) -> None:
        """Appends a call of a kernel that ends with an epilogue, with the constants that the epilogue reads."""
        spec, end = call.spec, call.destination
        x, numbers = spec.x, {**call.numbers, "scale": call.numbers["scale"] / np.float32(end.epilogue.unit)}
        numeric = self.constants.add(node.name, "raw", numbers)
        params = {"x": asdict(x), "size": list(end.epilogue.size), "length": spec.pixels}
        mask = self.constants.add(node.name, "mask", {}, params)
        args = [*call.inputs, numeric["scale"], numeric["bias"], numeric["params"], mask["mask"]]
        self.largest_read = max(self.largest_read, x.itemsize * (spec.pixels + x.plane))
        info = {**call.info, "operand": x.dtype}
        self.add_step(node, call.kernel, spec, [*args, *end.residual, end.out], info)

    def report(self, node: Node, weight: Weight, kernel: str, reason: str, stored: int | None = None) -> None:
        """Notes a layer with a weight for reports; ``stored`` are its bytes where it is not in the file of weights."""
        if isinstance(node, Windowed) and node.op != "Conv":
            return  # data movement that was written as a convolution
        shape = weight.shape if isinstance(weight, TernaryTensor) else weight.values.shape
        entry: dict[str, Any] = {"name": node.name, "kernel": kernel, "reason": reason, "shape": list(shape)}
        if isinstance(weight, TernaryTensor):
            levels = np.stack([weight.positive, weight.negative])
            entry |= {"terms": weight.terms, "sparsity": weight.sparsity(), "entropy": weight.entropy()}
            stored = sum(array.nbytes for array in weight.stored.values()) if stored is None else stored
            entry |= {"bits": 8 * stored / max(1, weight.codes[0].size), "bytes": stored}
            entry["levels"] = [float(levels.min()), float(levels.max())]
        else:
            entry |= {"terms": 0, "sparsity": float((weight.values == 0).mean()), "entropy": None, "levels": []}
            entry |= {"bits": weight.values.dtype.itemsize * 8, "bytes": int(weight.values.nbytes)}
        self.layers.append(entry)
