"""Turns a fused graph into kernel calls: picks a kernel for every node, repacks between layouts, folds numbers into epilogues."""

from __future__ import annotations

from dataclasses import asdict
from math import gcd, prod
from typing import Any

import numpy as np

from .clusters import lower_cluster
from .constants import split_levels
from .errors import ModelError
from .graph import Clip, DenseWeight, Fused, GlobalPool, Graph, Linear, Node, Pool, Quant, Windowed
from .kernels import dense, global_pool, linear, pool, repack, sparse
from .kernels.epilogue import Epilogue
from .layout import Halo, Plain
from .passes.layouts import LOWEST, Layouts, home, input_key, view, window_of
from .passes.quantized import COMMUTING
from .plan import Buffer, Constants, Place, Step
from .targets import TargetSpec
from .tensor import TernaryTensor

__all__ = ["Lowering"]

SPARSE_ROWS = 16
"""Rows from which a ternary linear layer is cheaper with rows in the vector lanes than with output channels there."""

SERIAL = 20_000
"""Element operations below which starting threads costs more than it gains (a start costs about a microsecond)."""

HIGHEST = -LOWEST


class Lowering:
    """Lowers one graph for one target. After :meth:`run`: ``steps``, ``constants``, ``layers``."""

    def __init__(self, graph: Graph, target: TargetSpec) -> None:
        self.graph, self.target = graph, target
        self.fma = "fma" in target.features or "aarch64" in str(target.tvm.get("mtriple", ""))
        self.steps: list[Step] = []
        self.constants = Constants()
        self.layers: list[dict[str, Any]] = []
        self._plain: dict[str, Buffer] = {}
        self._packed: dict[Any, Buffer] = {}
        self._virtual: dict[str, str] = {}
        self._inputs = {name: i for i, name in enumerate(graph.inputs)}
        self._outputs = {name: i for i, name in enumerate(graph.outputs)}
        planes = [n for n in graph.nodes if self._in_planes(n)]
        self.layouts = Layouts(graph, planes)
        self.largest_read = 4096

    # -- the walk -----------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Lowers all nodes, then the outputs."""
        for name, index in self._inputs.items():
            self._plain[name] = Buffer(name, self._plain_bytes(name), Place("input", index))
        waiting: list[Node] = []
        for node in self.graph.nodes:
            if self._is_ours(node):
                self._foreign(waiting)
                waiting = []
                self._lower(node)
            else:
                waiting.append(node)
        self._foreign(waiting)
        for name, index in self._outputs.items():
            self._deliver(name, index)

    def _is_ours(self, node: Node) -> bool:
        if isinstance(node, Fused) or (node.op in COMMUTING - {"MaxPool"} and node.inputs[0] not in self.graph.constants):
            return True
        names = node.inputs[:1] + node.outputs
        return node.op in ("QuantizeLinear", "DequantizeLinear") and any(
            self.graph.values[n].quant for n in names if n in self.graph.values
        )

    def _in_planes(self, node: Node) -> bool:
        if isinstance(node, Windowed | Pool):
            return True
        if isinstance(node, GlobalPool):
            return True
        return isinstance(node, Linear) and self._sparse_rows(node)

    def _sparse_rows(self, node: Linear) -> bool:
        rows = prod(self.graph.values[node.inputs[0]].shape[:-1])
        return isinstance(node.weight, TernaryTensor) and rows >= SPARSE_ROWS

    def _lower(self, node: Node) -> None:
        if isinstance(node, Windowed):
            self._convolution(node)
        elif isinstance(node, Linear):
            if self._sparse_rows(node):
                self._sparse(node, _as_convolution(node))
            else:
                self._linear(node)
        elif isinstance(node, Pool):
            self._pool(node)
        elif isinstance(node, GlobalPool):
            self._global_pool(node)
        elif node.op in COMMUTING:
            source = self.plain(node.inputs[0])
            self._plain[node.outputs[0]] = Buffer(node.outputs[0], source.nbytes, source.place, source)
        else:
            self._virtual[node.outputs[0]] = node.inputs[0]

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
        total = max(1, prod(value.shape))
        rows = gcd(total, 64)
        return repack.Strided(1, rows, (1, 1, total // rows), value.dtype, (0, total // rows, 0, 0, 1), total)

    def _repack(self, name: str, source: Buffer, source_layout: Any, to: str, target: Buffer, target_layout: Any) -> None:
        quant = self.graph.values[to].quant or self.graph.values[name].quant or Quant(1.0, 0)
        params = np.array([quant.scale, quant.zero_point, 0.0, 255.0], np.float32)
        work = source_layout.batch * source_layout.channels * prod(source_layout.dims)
        spec = repack.Spec(source_layout, target_layout, self.target.vector_bytes, work > SERIAL)
        constant = self.constants.add(f"{to}.repack{len(self.steps)}", "raw", {"params": params})["params"]
        info = {"op": "Repack", "reason": f"{name} {source_layout.dtype} to {target_layout.dtype}, other layout"}
        self.steps.append(Step(f"{to}/repack", "repack", spec, lambda: repack.emit(spec), [source, constant, target], target, info))

    def _deliver(self, name: str, index: int) -> None:
        buffer = self.plain(name)
        if buffer.root.place == Place("output", index):
            return
        out = Buffer(f"{name}/output", self._plain_bytes(name), Place("output", index))
        value = self.graph.values[name]
        if value.dtype not in ("float32", "uint8"):
            raise ModelError(f"output {name!r} is a copy of another tensor of type {value.dtype}; only float32 and uint8 can be copied")
        self._repack(name, buffer, self._flat(name), name, out, self._flat(name))

    # -- epilogues ----------------------------------------------------------------------------------------------------
    def _numbers(self, node: Fused, factor: np.ndarray, offset: np.ndarray) -> dict[str, np.ndarray]:
        """Scale, bias and params of an epilogue for ``real = acc * factor + offset (+ residual)``."""
        out = self.graph.values[node.outputs[0]].quant or Quant(1.0, 0)
        quantised = self.graph.values[node.outputs[0]].quant is not None
        bias = offset.astype(np.float64) / out.scale + out.zero_point
        weight = 0.0
        if node.residual:
            beside = self.graph.values[node.residual].quant or Quant(1.0, 0)
            weight = beside.scale / out.scale
            bias = bias - beside.zero_point * weight
        low, high = (b / out.scale + out.zero_point for b in (node.clip.low, node.clip.high))
        low, high = (max(low, 0.0), min(high, 255.0)) if quantised else (max(low, LOWEST), min(high, HIGHEST))
        params = np.array([weight, low, max(low, high), 0.0], np.float32)
        return {"scale": (factor / out.scale).astype(np.float32), "bias": bias.astype(np.float32), "params": params}

    def _epilogue(self, node: Fused, rows: bool, x: Halo) -> tuple[Epilogue, list[Buffer], Buffer]:
        """The static part, the residual's buffer if there is one, the output's buffer."""
        out_key = home(self.graph, node.outputs[0], rows)
        layout = self.layouts[out_key]
        beside = [self.packed(home(self.graph, node.residual, rows))] if node.residual else []
        residual = self.layouts[home(self.graph, node.residual, rows)] if node.residual else None
        size = window_of(node).output(x.dims)
        out = Buffer(node.outputs[0], layout.nbytes)
        self._packed[out_key] = out
        return Epilogue(layout, size, residual, self.fma), beside, out

    def _input_quant(self, node: Fused) -> Quant:
        return self.graph.values[node.inputs[0]].quant or Quant(1.0, 0)

    def _finish(self, node: Fused, module: Any, spec: Any, own: list[Buffer], numbers: dict[str, np.ndarray], ep: Epilogue, x: Halo, beside: list[Buffer], out: Buffer, info: dict[str, Any]) -> None:
        numeric = self.constants.add(node.name, "raw", numbers)
        mask = self.constants.add(node.name, "mask", {}, {"x": asdict(x), "size": list(ep.size), "length": spec.pixels})
        args = [*own, numeric["scale"], numeric["bias"], numeric["params"], mask["mask"], *beside, out]
        self.largest_read = max(self.largest_read, 4 * (spec.pixels + x.plane))
        kernel = module.__name__.rsplit(".", 1)[1]
        self.steps.append(Step(node.name, kernel, spec, lambda: module.emit(spec), args, out, {"op": node.op, "fused": node.fused, **info}))

    # -- kernels ------------------------------------------------------------------------------------------------------
    def _convolution(self, node: Windowed) -> None:
        if isinstance(node.weight, TernaryTensor):
            self._sparse(node, node.weight)
        else:
            self._dense(node)

    def _sparse(self, node: Windowed | Linear, weight: TernaryTensor) -> None:
        key, rows = input_key(self.graph, node), isinstance(node, Linear)
        source, x, window = self.packed(key), self.layouts[key], window_of(node)
        codes, levels = split_levels(weight)
        quant, single = self._input_quant(node), len(codes) == 1
        level = levels[0].astype(np.float64) if single else np.ones(weight.channels)
        sums = (codes.reshape(*codes.shape[:2], -1).sum(2) * levels).sum(0)
        numbers = self._numbers(node, level * quant.scale * node.scale, node.bias - quant.zero_point * quant.scale * node.scale * sums)
        full = weight.per_channel if not weight.is_symmetric or weight.terms > 1 else weight
        arrays = {"codes": weight.pack(), "positive": full.positive, "negative": full.negative}
        limit = sparse.taps_limit(x)
        params = {"shape": list(weight.codes.shape), "window": asdict(window), "x": asdict(x), "limit": limit}
        made = self.constants.add(node.name, "taps", arrays, params)
        ep, beside, out = self._epilogue(node, rows, x)
        pieces = made["level"].nbytes // 4
        lanes = self.target.vector_bytes // x.itemsize
        vectors = -(-x.run(ep.size) // lanes)
        block = 4 if vectors > 6 else vectors
        taps = made["offsets"].nbytes // 4 - 1
        chunks = _chunks(weight.channels, -(-vectors // block))
        spec = sparse.Spec(
            x, weight.channels, taps, 0 if single and pieces == weight.channels else pieces, self.target.vector_bytes, block, chunks,
            taps * vectors * lanes > SERIAL * 16, ep,
        )  # fmt: skip
        own = [source, *(made[n] for n in ("offsets", "bounds", "row", "level"))]
        macs = prod(weight.shape) * x.batch * prod(ep.size)
        reason = f"{weight.sparsity():.1%} zeros: adds and subtracts {taps} of {prod(weight.shape)} taps"
        info = {"macs": macs, "nonzero_macs": taps * x.batch * prod(ep.size), "bytes_weights": weight.nbytes(), "reason": reason}
        self._report(node, weight, "sparse", reason)
        self._finish(node, sparse, spec, own, numbers, ep, x, beside, out, info)

    def _dense(self, node: Windowed) -> None:
        weight = node.weight
        assert isinstance(weight, DenseWeight)
        key, window = input_key(self.graph, node), node.window
        source, x = self.packed(key), self.layouts[key]
        channels = weight.values.shape[0]
        tile = _tile(channels // window.groups, 4 if self.target.vector_bytes == 32 else 8)
        quant = self._input_quant(node)
        factor = weight.scale.astype(np.float64) * quant.scale * node.scale
        sums = weight.values.reshape(channels, -1).astype(np.float64).sum(1)
        numbers = self._numbers(node, factor, node.bias - quant.zero_point * factor * sums)
        params = {"window": asdict(window), "x": asdict(x), "tile": tile}
        made = self.constants.add(node.name, "dense", {"values": weight.values}, params)
        ep, beside, out = self._epilogue(node, False, x)
        lanes = self.target.vector_bytes // 4
        vectors = -(-x.run(ep.size) // lanes)
        macs = weight.values.size * x.batch * prod(ep.size)
        spec = dense.Spec(x, window, channels, self.target.vector_bytes, min(vectors, 3 if tile > 1 else 8), tile, macs > SERIAL * 4, ep)
        reason = "depthwise, multiply-add" if window.groups == channels > 1 else f"dense {weight.values.dtype} weight, multiply-add"
        info = {"macs": macs, "nonzero_macs": macs, "bytes_weights": weight.values.nbytes, "reason": reason}
        self._report(node, weight, "dense", reason)
        self._finish(node, dense, spec, [source, made["values"], made["offsets"]], numbers, ep, x, beside, out, info)

    def _pool(self, node: Pool) -> None:
        key = input_key(self.graph, node)
        source, x = self.packed(key), self.layouts[key]
        quant, channels = self._input_quant(node), x.channels
        scale, bias = np.broadcast_to(node.scale, (channels,)), np.broadcast_to(node.bias, (channels,))
        factor = quant.scale * scale.astype(np.float64)
        zero = quant.zero_point if node.kind == "max" else 0
        numbers = self._numbers(node, factor, bias - zero * factor)
        ep, beside, out = self._epilogue(node, False, x)
        work = x.batch * channels * prod(ep.size) * prod(node.window.kernel)
        spec = pool.Spec(node.kind, x, node.window, quant.zero_point, self.target.vector_bytes, work > SERIAL * 8, ep)
        params = {"x": asdict(x), "window": asdict(node.window), "size": list(ep.size), "length": spec.pixels, "include_pad": node.include_pad}
        made = self.constants.add(node.name, "divisor", {}, params)
        window = "x".join(str(k) for k in node.window.kernel if k > 1) or "elementwise"
        self._finish(node, pool, spec, [source, made["divisor"]], numbers, ep, x, beside, out, {"reason": f"{node.kind} {window}" if window != "elementwise" else window})

    def _global_pool(self, node: GlobalPool) -> None:
        key = home(self.graph, node.inputs[0])
        source, x = self.packed(key), self.layouts[key]
        quant, count = self._input_quant(node), prod(x.dims)
        if np.ptp(node.scale) or np.ptp(node.bias):
            raise ModelError(f"{node.name!r}: a global average followed by a scale per channel is not supported; fold it into the next layer")
        zero = np.array([-quant.zero_point * quant.scale * node.scale.ravel()[0]]) + node.bias.ravel()[:1]
        numbers = self._numbers(node, np.array([quant.scale / count * node.scale.ravel()[0]]), zero)
        params = np.concatenate([numbers["scale"], numbers["bias"], numbers["params"][1:3]]).astype(np.float32)
        out = self.new_plain(node.outputs[0])
        dtype = self.graph.values[node.outputs[0]].dtype
        spec = global_pool.Spec(x, dtype, self.target.vector_bytes, x.batch * x.channels * count > SERIAL * 8)
        made = self.constants.add(node.name, "raw", {"params": params})
        mask = self.constants.add(node.name, "mask", {}, {"x": asdict(x), "size": list(x.dims), "length": spec.pixels})
        info = {"op": node.op, "fused": node.fused, "reason": "average of all pixels"}
        self.steps.append(Step(node.name, "global_pool", spec, lambda: global_pool.emit(spec), [source, mask["mask"], made["params"], out], out, info))

    def _linear(self, node: Linear) -> None:
        weight, x = node.weight, self.graph.values[node.inputs[0]]
        assert weight is not None
        source, quant = self.plain(node.inputs[0]), self._input_quant(node)
        batch, inputs = prod(x.shape[:-1]), x.shape[-1]
        dtype, arrays, params = "float32", {}, {}
        exact, outputs = False, 0
        if isinstance(weight, TernaryTensor):
            full, outputs = weight.per_channel, weight.channels
            simple = weight.terms == 1 and weight.is_symmetric
            exact, dtype = simple and x.dtype == "uint8", "int8" if simple else "float32"
            level = full.positive[0].astype(np.float64) if simple else np.ones(outputs)
            sums = (weight.codes[0] if simple else weight.dequantize()).reshape(outputs, -1).astype(np.float64).sum(1)
            arrays = {"codes": weight.pack(), "positive": full.positive, "negative": full.negative}
            params = {"shape": list(weight.codes.shape)}
            reason = f"{batch} rows: output channels in the lanes, codes as {dtype}"
        else:
            outputs, level, dtype = weight.values.shape[0], weight.scale.astype(np.float64), weight.values.dtype.name
            sums = weight.values.astype(np.float64).sum(1)
            arrays = {"values": weight.values}
            reason = f"dense {dtype} weight, {batch} rows"
        residual = self.graph.values[node.residual].dtype if node.residual else None
        out_dtype = self.graph.values[node.outputs[0]].dtype
        work = batch * inputs * outputs
        spec = linear.Spec(batch, inputs, outputs, x.dtype, dtype, exact, out_dtype, residual, self.target.vector_bytes, work > SERIAL * 8, self.fma)
        numbers = self._numbers(node, level * quant.scale * node.scale, node.bias - quant.zero_point * quant.scale * node.scale * level * sums)
        for name in ("scale", "bias"):
            numbers[name] = np.pad(numbers[name], (0, spec.padded - outputs))
        made = self.constants.add(node.name, "linear", arrays, {**params, "dtype": dtype, "padded": spec.padded})
        numeric = self.constants.add(node.name, "raw", numbers)
        beside = [self.plain(node.residual)] if node.residual else []
        out = self.new_plain(node.outputs[0])
        args = [source, made["values"], numeric["scale"], numeric["bias"], numeric["params"], *beside, out]
        nonzero = round(work * (1 - weight.sparsity())) if isinstance(weight, TernaryTensor) else work
        stored = weight.nbytes() if isinstance(weight, TernaryTensor) else weight.values.nbytes
        info = {"op": node.op, "fused": node.fused, "macs": work, "nonzero_macs": nonzero, "bytes_weights": stored, "reason": reason}
        self._report(node, weight, "linear", reason)
        self.steps.append(Step(node.name, "linear", spec, lambda: linear.emit(spec), args, out, info))

    def _report(self, node: Node, weight: Any, kernel: str, reason: str) -> None:
        entry: dict[str, Any] = {"name": node.name, "kernel": kernel, "reason": reason}
        if isinstance(weight, TernaryTensor):
            low, high = float(min(weight.positive.min(), weight.negative.min())), float(max(weight.positive.max(), weight.negative.max()))
            entry |= {
                "shape": list(weight.shape), "terms": weight.terms, "sparsity": weight.sparsity(), "entropy": weight.entropy(),
                "bits": weight.bits(), "levels": [low, high], "bytes": weight.nbytes(),
            }  # fmt: skip
        else:
            zeros = float((weight.values == 0).mean())
            entry |= {
                "shape": list(weight.values.shape), "terms": 0, "sparsity": zeros, "entropy": None,
                "bits": weight.values.dtype.itemsize * 8, "levels": [], "bytes": int(weight.values.nbytes),
            }  # fmt: skip
        self.layers.append(entry)

    def _foreign(self, nodes: list[Node]) -> None:
        if nodes:
            lower_cluster(self, nodes)


def _as_convolution(node: Linear) -> TernaryTensor:
    """The weight of a linear layer as that of a convolution with a window of one pixel."""
    weight = node.weight
    assert isinstance(weight, TernaryTensor)
    return TernaryTensor(weight.codes.reshape(*weight.codes.shape, 1, 1, 1), weight.positive, weight.negative, 0)


def _tile(rows: int, most: int) -> int:
    """Output channels a register block: a divisor of the rows where there is a fair one, else blocks with a ragged end."""
    if rows <= most:
        return rows
    best = max(d for d in range(1, most + 1) if rows % d == 0)
    return best if best * 2 > most else most


def _chunks(rows: int, blocks: int) -> int:
    """Blocks of output channels, so that there are at least 16 jobs for the threads."""
    wanted = max(1, min(rows, -(-16 // blocks)))
    return next(c for c in range(wanted, rows + 1) if rows % c == 0 or c >= 2 * wanted or c == rows)
