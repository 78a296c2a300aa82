"""Lowers a fused graph to kernel calls: walks the nodes, keeps track of where tensors are, repacks between layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import count
from math import gcd, prod
from typing import Any

import numpy as np

from tvm_schedules.backends.cpu.kernels import dense_conv as dense
from tvm_schedules.backends.cpu.kernels import dense_conv_dot as dense_dot
from tvm_schedules.backends.cpu.kernels import dense_conv_dot_channels as dense_channels
from tvm_schedules.backends.cpu.kernels import depthwise_conv_dot as depthwise_dot
from tvm_schedules.backends.cpu.kernels import global_pool, linear, linear_dot, pool, popcount_linear, repack
from tvm_schedules.backends.cpu.kernels import max_pool_stride2 as pool_rows
from tvm_schedules.backends.cpu.kernels import popcount_conv as popcount
from tvm_schedules.backends.cpu.kernels import sparse_conv as sparse
from tvm_schedules.backends.cpu.kernels import sparse_conv_low_bit as narrow
from tvm_schedules.backends.cpu.kernels import sparse_conv_panel as panel
from tvm_schedules.backends.cpu.kernels import sparse_conv_unrolled as straight
from tvm_schedules.backends.cpu.kernels.epilogue import Epilogue
from tvm_schedules.common.reading import reading_model
from tvm_schedules.errors import ModelError
from tvm_schedules.ir.graph import Fused, Graph, Node, Quant, Weight, Windowed
from tvm_schedules.ir.layout import Halo, Plain
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.choice import Choice, Choices
from tvm_schedules.lowering.layouts import LOWEST, Layouts, home, in_planes, view, window_of
from tvm_schedules.lowering.steps import Buffer, Constants, Place, Step
from tvm_schedules.passes.quantized import COMMUTING
from tvm_schedules.targets.registry import TargetSpec

__all__ = ["SERIAL", "Lowering"]

KERNELS = (
    depthwise_dot,
    popcount,
    dense_channels,
    dense_dot,
    narrow,
    straight,
    panel,
    sparse,
    dense,
    popcount_linear,
    linear_dot,
    linear,
    pool_rows,
    pool,
    global_pool,
)
"""In order of preference: the first whose ``lower`` takes a node has it."""

HIGHEST = -LOWEST

SERIAL = 1_000
"""Element operations below which one thread does a layer while the others wait: where data are, they stay."""


def name_of(kernel: Any) -> str:
    """What artifacts and tuning databases call a kernel."""
    return str(kernel.NAME)


class Lowering:
    """Lowers one graph for one target. After :meth:`run`: ``steps``, ``constants``, ``layers``."""

    kernels: tuple[Any, ...] = KERNELS
    emitters: Mapping[str, Callable[[Any], Any]] = {name_of(kernel): kernel.emit for kernel in (*KERNELS, repack)}
    """What makes the code of a kernel from its specification, by the kernel's name."""
    units = True
    """Whether that code makes sums that are multiples of an epilogue's unit."""

    def __init__(self, graph: Graph, target: TargetSpec, choices: Mapping[str, Choice] | None = None) -> None:
        """Takes choices by the names of nodes; what they leave open is the cost model's."""
        self.graph, self.target = graph, target
        self.choices = Choices(choices or {})
        self.fma = "fma" in target.features or "aarch64" in str(target.tvm.get("mtriple", ""))
        self.serial = SERIAL
        self.steps: list[Step] = []
        self.constants = Constants()
        self.layers: list[dict[str, Any]] = []
        self.derived: dict[Any, Buffer] = {}
        """Other forms of tensors that kernels made for themselves, by what they are."""
        self.subgraphs = count()
        """Numbers for subgraphs of operators without a kernel."""
        self._plain: dict[str, Buffer] = {}
        self._packed: dict[Any, Buffer] = {}
        self._virtual: dict[str, str] = {}
        self._inputs = {name: i for i, name in enumerate(graph.inputs)}
        self._outputs = {name: i for i, name in enumerate(graph.outputs)}
        planes = [n for n in graph.nodes if in_planes(graph, n)]
        wide = target.vector_bytes if target.vector_bytes == 64 else 0
        self.layouts = Layouts(graph, planes, vector=wide, rows=pool_rows in self.kernels)
        self.largest_read = 4096

    # -- the walk -----------------------------------------------------------------------------------------------------
    @reading_model()
    def run(self) -> None:
        """Lowers all nodes, then the outputs.

        Raises:
            ModelError: A node cannot be lowered.
        """
        for name, index in self._inputs.items():
            self._plain[name] = Buffer(name, self._plain_bytes(name), Place("input", index))
        waiting: list[Node] = []
        for node in self.graph.nodes:
            if self._is_ours(node):
                self._lower_others(waiting)
                waiting = []
                self._lower(node)
            else:
                waiting.append(node)
        self._lower_others(waiting)
        for name, index in self._outputs.items():
            self._deliver(name, index)

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
                raise ModelError(f"no kernel takes the {node.op} node {node.name!r}")
        elif node.op in COMMUTING:
            source = self.plain(node.inputs[0])
            self._plain[node.outputs[0]] = Buffer(node.outputs[0], source.nbytes, source.place, source)
        else:
            self._virtual[node.outputs[0]] = node.inputs[0]

    def _in_order(self, node: Node) -> list[Any]:
        """Kernels in order of preference, a given choice's first."""
        return sorted(self.kernels, key=lambda kernel: not self.choices.wants(node.name, name_of(kernel), False))

    def _takes(self, kernel: Any, node: Node) -> bool:
        self.choices.begin(node.name, name_of(kernel))
        took = bool(kernel.lower(self, node))
        if took:
            self.choices.taken(node.name)
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
            self._repack(origin, self._packed[key], self.layouts[key], name, buffer, self._strided(name, rows))
        else:
            assert source is not None
            self._repack(origin, source, self._flat(origin), name, buffer, self._flat(name))
        return buffer

    def is_callers(self, name: str) -> bool:
        """Whether the tensor in plain form lies in the caller's memory, behind which nothing may be read."""
        place = self.plain(name).root.place
        return place is not None and place.kind in ("input", "output")

    def packed(self, key: Any) -> Buffer:
        """The tensor in planes of the layout ``key``."""
        if key in self._packed:
            return self._packed[key]
        layout = self.layouts[key]
        at_home = home(self.graph, key.value, key.rows)
        source = self._virtual.get(key.value, key.value)
        buffer = Buffer(f"{key.value}:{key.phase}", layout.nbytes)
        if at_home in self._packed and at_home != key:
            self._repack(key.value, self._packed[at_home], self.layouts[at_home], key.value, buffer, layout)
        else:
            there = home(self.graph, source, key.rows)
            if there in self._packed:
                self._repack(source, self._packed[there], self.layouts[there], key.value, buffer, layout)
            else:
                self._repack(source, self.plain(source), self._strided(source, key.rows), key.value, buffer, layout)
        self._packed[key] = buffer
        return buffer

    def _strided(self, name: str, rows: bool) -> repack.Strided:
        value = self.graph.values[name]
        batch, channels, dims = view(self.graph, name, rows)
        total = prod(value.shape)
        pixels = prod(dims)
        strides = (0, 1, 0, 0, channels) if rows else (channels * pixels, pixels, dims[1] * dims[2], dims[2], 1)
        return repack.Strided(batch, channels, dims, value.dtype, strides, max(1, total))

    def _flat(self, name: str) -> repack.Strided:
        value = self.graph.values[name]
        total, dtype = max(1, prod(value.shape)), value.dtype
        if dtype not in ("float32", "uint8"):  # copied as bytes, never converted
            total, dtype = total * np.dtype(dtype).itemsize, "uint8"
        rows = gcd(total, 64)
        return repack.Strided(1, rows, (1, 1, total // rows), dtype, (0, total // rows, 0, 0, 1), total)

    def _repack(
        self, name: str, source: Buffer, source_layout: Any, to: str, target: Buffer, target_layout: Any
    ) -> None:
        quant = self.graph.values[to].quant or self.graph.values[name].quant or Quant(1.0, 0)
        params = np.array([quant.scale, quant.zero_point, 0.0, 255.0], np.float32)
        work = source_layout.batch * source_layout.channels * prod(source_layout.dims)
        spec = repack.Spec(source_layout, target_layout, self.target.vector_bytes, work > SERIAL, self.fma)
        constant = self.constants.add(f"{to}.repack{len(self.steps)}", "raw", {"params": params})["params"]
        info = {"op": "Repack", "reason": f"{name} {source_layout.dtype} to {target_layout.dtype}, other layout"}
        emit = self._emitter("repack")
        self.steps.append(Step(f"{to}/repack", "repack", spec, lambda: emit(spec), [source, constant, target], info))

    def _deliver(self, name: str, index: int) -> None:
        buffer = self.plain(name)
        if buffer.root.place == Place("output", index):
            return
        out = Buffer(f"{name}/output", self._plain_bytes(name), Place("output", index))
        self._repack(name, buffer, self._flat(name), name, out, self._flat(name))

    # -- what kernels have in common -----------------------------------------------------------------------------------
    def input_quant(self, node: Fused) -> Quant:
        """Scale and zero point of a node's data; 1 and 0 for float."""
        return self.graph.values[node.inputs[0]].quant or Quant(1.0, 0)

    def numbers(self, node: Fused, factor: np.ndarray, offset: np.ndarray) -> dict[str, np.ndarray]:
        """Scale, bias and params of an epilogue for ``real = acc * factor + offset (+ residual)``."""
        quant = self.graph.values[node.outputs[0]].quant
        out = quant or Quant(1.0, 0)
        bias, weight = offset.astype(np.float64) / out.scale + out.zero_point, 0.0
        if node.residual:
            beside = self.graph.values[node.residual].quant or Quant(1.0, 0)
            weight = beside.scale / out.scale
            bias = bias - beside.zero_point * weight
        low, high = self._bounds(node)
        scale = factor / out.scale
        if quant:
            # Numbers that stay far inside of 32 bits when multiplied.
            scale, bias = np.clip(scale, -1e4, 1e4), np.clip(bias, -1e8, 1e8)
        params = np.array([weight, low, max(low, high), 0.0], np.float32)
        return {"scale": scale.astype(np.float32), "bias": bias.astype(np.float32), "params": params}

    def _bounds(self, node: Fused) -> tuple[float, float]:
        """What a node's output is clipped to, in units of its quantization step: there the integers they round to."""
        quant = self.graph.values[node.outputs[0]].quant
        if quant is None:
            return max(node.clip.low, LOWEST), min(node.clip.high, HIGHEST)
        low, high = (bound / quant.scale + quant.zero_point for bound in (node.clip.low, node.clip.high))
        return float(np.rint(max(low, 0.0))), float(np.rint(min(high, 255.0)))

    def epilogue(self, node: Fused, rows: bool, x: Halo, unit: float = 1.0) -> tuple[Epilogue, list[Buffer], Buffer]:
        """The static part, the residual's buffer if there is one, the output's buffer.

        Args:
            node: Whose.
            rows: Whether it is a linear layer in planes.
            x: What it reads.
            unit: What the kernel's sums are multiples of.
        """
        key = home(self.graph, node.outputs[0], rows)
        layout = self.layouts[key]
        beside, residual = [], None
        if node.residual:
            other = home(self.graph, node.residual, rows)
            beside, residual = [self.packed(other)], self.layouts[other]
        self._packed[key] = Buffer(node.outputs[0], layout.nbytes)
        size = window_of(node).output(x.dims)
        saturates = layout.dtype == "uint8" and self._bounds(node) == (0.0, 255.0)
        unit = unit if self.units else 1.0
        ep = Epilogue(layout, size, residual, self.fma, self.target.architecture, saturates, unit)
        return ep, beside, self._packed[key]

    def _emitter(self, kernel: str) -> Any:
        return self.emitters[kernel]

    def add_step(self, node: Fused, kernel: str, spec: Any, args: list[Buffer], info: dict[str, Any]) -> None:
        """Appends a call of a kernel, by its name."""
        emit = self._emitter(kernel)
        info = {"op": node.op, "fused": node.fused, **info}
        self.steps.append(Step(node.name, kernel, spec, lambda: emit(spec), args, info))

    def add_planes(
        self,
        node: Fused,
        kernel: str,
        spec: Any,
        own: list[Buffer],
        numbers: dict[str, np.ndarray],
        beside: list[Buffer],
        out: Buffer,
        info: dict[str, Any],
    ) -> None:
        """Appends a call of a kernel that ends with an :class:`Epilogue`; ``own`` are its arguments before that."""
        ep, x = spec.epilogue, spec.x
        numbers = {**numbers, "scale": numbers["scale"] / np.float32(ep.unit)}
        numeric = self.constants.add(node.name, "raw", numbers)
        mask = self.constants.add(node.name, "mask", {}, {"x": asdict(x), "size": list(ep.size), "length": spec.pixels})
        args = [*own, numeric["scale"], numeric["bias"], numeric["params"], mask["mask"], *beside, out]
        self.largest_read = max(self.largest_read, x.itemsize * (spec.pixels + x.plane))
        self.add_step(node, kernel, spec, args, {**info, "operand": x.dtype})

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

    def _lower_others(self, nodes: list[Node]) -> None:
        """Lowers operators without a kernel, which follow one another: the part of a back end."""
        from tvm_schedules.backends.cpu.schedules import schedule_program
        from tvm_schedules.fallback.subgraph import lower_subgraph

        if nodes:
            lower_subgraph(self, nodes, schedule_program)
