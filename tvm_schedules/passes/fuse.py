"""Turns convolutions, linear layers and pooling into nodes with kernels, and what follows them into their epilogues."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tvm_schedules.ir.graph import Clip, DenseWeight, Fused, GlobalPool, Graph, Linear, Node, Pool, Weight, Windowed
from tvm_schedules.ir.layout import Triple, Window, spatial3
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.passes import activations
from tvm_schedules.passes.quantized import parameters, resolve
from tvm_schedules.passes.weights import as_weight

__all__ = ["run"]


def run(graph: Graph) -> None:
    """Replaces nodes by fused ones, in place; each stands where the last node that it absorbed stood."""
    producers = graph.producers()
    done: dict[int, Fused | None] = {}
    places = {id(node): i for i, node in enumerate(graph.nodes)}
    in_planes: set[str] = set()
    readers = graph.consumers()
    for index, node in enumerate(list(graph.nodes)):
        if index in done or isinstance(node, Fused):
            continue
        fused = _start(graph, producers, node, in_planes)
        if fused is None:
            continue
        done[index] = None
        last = index
        while (follower := _follower(graph, readers, fused)) and places[id(follower)] not in done:
            gated = isinstance(fused, Pool) and fused.gate is not None
            if (gated and follower.op == "Add") or not _take(graph, producers, fused, follower):
                break
            fused.tail += [follower] if gated else []
            last = places[id(follower)]
            done[last] = None
        for absorbed in _activate(graph, producers, readers, fused, {k: v for k, v in places.items() if v not in done}):
            last = places[id(absorbed)]
            done[last] = None
        done[last] = fused
        if isinstance(fused, Windowed | Pool):
            in_planes.add(fused.outputs[0])
    order: list[Node] = []
    for index, node in enumerate(graph.nodes):
        kept = done.get(index, node)
        if kept is not None:
            order.append(kept)
    graph.nodes = order


def _start(graph: Graph, producers: dict[str, Node], node: Node, in_planes: set[str]) -> Fused | None:
    data = graph.values.get(node.inputs[0]) if node.inputs else None
    if data is not None and data.dtype != "float32" and data.quant is None:
        return None  # numbers of other types, and integers that stand for nothing else, have no kernels
    if node.op == "Conv":
        return _convolution(graph, producers, node)
    if node.op in ("Gemm", "MatMul"):
        return _linear(graph, producers, node)
    rank = len(graph.values[node.outputs[0]].shape)
    source = resolve(graph, producers, node.inputs[0]) if node.inputs else ""
    if node.op in ("MaxPool", "AveragePool") and 3 <= rank <= 5:
        return _pool(graph, node, source)
    if node.op == "GlobalAveragePool" or (node.op == "ReduceMean" and _all_pixels(graph, node)):
        fits = len(graph.values[node.inputs[0]].shape) <= 5
        return GlobalPool(node.name, node.op, [source], list(node.outputs)) if fits else None
    if node.op == "Mul":
        return _gate(graph, producers, node, in_planes)
    if node.op == "Add":
        names = [resolve(graph, producers, name) for name in node.inputs]
        shape = graph.values[node.outputs[0]].shape
        same = all(name in graph.values and graph.values[name].shape == shape for name in names)
        if same and any(name in in_planes for name in names):
            return Pool(node.name, "Add", names, list(node.outputs), residual=names[1])
    if node.op in ("Add", "Relu", "Clip", "QuantizeLinear", "BatchNormalization") and source in in_planes:
        identity = Pool(node.name, node.op, [source], [node.inputs[0]])
        return identity if _take(graph, producers, identity, node) else None
    return None


def _gate(graph: Graph, producers: dict[str, Node], node: Node, in_planes: set[str]) -> Pool | None:
    """A product of planes and one float a plane, as in squeeze-and-excitation."""
    shape = graph.values[node.outputs[0]].shape
    for x, gate in (node.inputs, node.inputs[::-1]):
        source = resolve(graph, producers, x)
        if source not in in_planes or gate not in graph.values or graph.values[x].shape != shape:
            continue
        value = graph.values[gate]
        one = value.shape == (*shape[:2], *(1 for _ in shape[2:]))
        if one and {graph.values[x].dtype, value.dtype} == {"float32"}:
            tail = [node] if source == x else [producers[x], node]
            return Pool(node.name, "Mul", [source, gate], list(node.outputs), gate=gate, tail=tail)
    return None


def _activate(
    graph: Graph,
    producers: dict[str, Node],
    readers: dict[str, list[Node]],
    fused: Fused,
    places: dict[int, int],
) -> list[Node]:
    """Lets a layer of 8-bit data compute the activation function behind it; the nodes that it absorbs, in order."""
    name = fused.outputs[0]
    layer = isinstance(fused, Windowed | Linear) and fused.weight is not None
    data, made = graph.values[fused.inputs[0]], graph.values[name]
    if not layer or data.quant is None or made.quant is not None or fused.clip != Clip() or name in graph.outputs:
        return []
    found = activations.find(graph, readers, name)
    if found is None or any(id(node) not in places for node in found.nodes):
        return []
    fused.activation, fused.early, fused.outputs = found.kind, name, [found.nodes[-1].outputs[0]]
    fused.fused += [node.name for node in found.nodes]
    fused.tail = list(found.nodes)
    follower = _follower(graph, readers, fused)
    if follower is not None and follower.op == "QuantizeLinear" and _take(graph, producers, fused, follower):
        fused.tail.append(follower)
    return fused.tail


def _follower(graph: Graph, readers: dict[str, list[Node]], fused: Fused) -> Node | None:
    """The only reader of the fused node's output, unless the output is needed as it is."""
    name = fused.outputs[0]
    after = readers.get(name, [])
    if name in graph.outputs or len(after) != 1 or graph.values[name].quant is not None:
        return None
    return after[0]


def _take(graph: Graph, producers: dict[str, Node], fused: Fused, node: Node) -> bool:
    """Absorbs one node that reads the fused node's output, if it fits."""
    name, out = fused.outputs[0], node.outputs[0]
    plain = fused.residual is None and fused.clip == Clip()
    channels = graph.values[name].shape[-1 if isinstance(fused, Linear) else 1]
    if node.op == "Relu":
        fused.clip = Clip(max(fused.clip.low, 0.0), fused.clip.high)
    elif node.op == "Clip":
        bounds = _bounds(graph, node)
        if bounds is None:
            return False
        fused.clip = Clip(max(fused.clip.low, bounds.low), min(fused.clip.high, bounds.high))
    elif node.op == "QuantizeLinear":
        if graph.values[out].quant is None or parameters(graph, node) is None:
            return False
    elif node.op in ("Reshape", "Squeeze", "Unsqueeze") and isinstance(fused, Linear):
        # The rows of a linear layer are rows however many axes they have.
        if fused.residual or graph.values[out].shape[-1:] != (channels,) or graph.values[out].quant is not None:
            return False
    elif node.op == "BatchNormalization" and plain:
        parts = [graph.constants.get(n) for n in node.inputs[1:5]]
        if any(p is None for p in parts):
            return False
        gamma, beta, mean, variance = (p.astype(np.float64) for p in parts)  # type: ignore[union-attr]
        factor = gamma / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
        fused.scale = (fused.scale * factor).astype(np.float32)
        fused.bias = (fused.bias * factor + beta - mean * factor).astype(np.float32)
    elif node.op in ("Add", "Mul") and graph.values[out].shape == graph.values[name].shape:  # not repeated for another
        other = node.inputs[1] if node.inputs[0] == name else node.inputs[0]
        constant = _per_channel(graph, fused, other, channels)
        if constant is not None and node.op == "Add" and not plain and np.ptp(constant) == 0:
            # Clipping commutes with an addition that moves its bounds along.
            shift = float(constant[0])
            fused.bias = (fused.bias + constant).astype(np.float32)
            fused.clip = Clip(fused.clip.low + shift, fused.clip.high + shift)
        elif constant is not None and plain:
            if node.op == "Mul":
                fused.scale = (fused.scale * constant).astype(np.float32)
                fused.bias = (fused.bias * constant).astype(np.float32)
            else:
                fused.bias = (fused.bias + constant).astype(np.float32)
        elif node.op == "Add" and plain and other != name and not isinstance(fused, GlobalPool):
            residual = resolve(graph, producers, other)
            if residual not in graph.values or graph.values[residual].shape != graph.values[out].shape:
                return False
            fused.residual = residual
            fused.inputs = [*fused.inputs, residual]
        else:
            return False
    else:
        return False
    fused.fused.append(node.name)
    fused.outputs = [out]
    return True


def _bounds(graph: Graph, node: Node) -> Clip | None:
    """Constant bounds of a Clip; None if one is computed."""
    found = []
    for name, default in zip([*node.inputs[1:], "", ""][:2], (-np.inf, np.inf), strict=True):
        if name and name not in graph.constants:
            return None
        found.append(float(graph.constants[name].ravel()[0]) if name else default)
    return Clip(*found)


def _per_channel(graph: Graph, fused: Fused, name: str, channels: int) -> np.ndarray | None:
    array = graph.constants.get(name)
    if array is None or array.dtype != np.float32:
        return None
    if array.size == 1:
        return np.full(channels, array.ravel()[0], np.float32)
    rank = len(graph.values[fused.outputs[0]].shape)
    axis = rank - 1 if isinstance(fused, Linear) else 1
    shape = (1,) * (rank - array.ndim) + array.shape
    return array.ravel() if array.size == channels and len(shape) == rank and shape[axis] == channels else None


def _pads(
    node: Node, rank: int, dims: tuple[int, ...], kernel: list[int], strides: list[int], dilations: list[int]
) -> Any:
    mode = node.attrs.get("auto_pad", "NOTSET")
    pads = list(node.attrs.get("pads", [0] * (2 * rank)))
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        pads = [0] * (2 * rank)
        for i in range(rank):
            total = max(0, (-(-dims[i] // strides[i]) - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 - dims[i])
            small, large = total // 2, total - total // 2
            pads[i], pads[i + rank] = (small, large) if mode == "SAME_UPPER" else (large, small)
    pairs = [(pads[i], pads[i + rank]) for i in range(rank)]
    return ((0, 0),) * (3 - rank) + tuple(pairs)


def _window(graph: Graph, node: Node, kernel: list[int]) -> Window:
    dims = graph.values[node.inputs[0]].shape[2:]
    rank = len(dims)
    strides = list(node.attrs.get("strides", [1] * rank))
    dilations = list(node.attrs.get("dilations", [1] * rank))
    pads = _pads(node, rank, dims, kernel, strides, dilations)
    return Window(
        spatial3(kernel, 1), spatial3(strides, 1), pads, spatial3(dilations, 1), int(node.attrs.get("group", 1))
    )


def _spatial(weight: Weight) -> Weight:
    """The weight with three spatial dimensions."""
    if isinstance(weight, TernaryTensor):
        codes = weight.codes.reshape(*weight.codes.shape[:3], *spatial3(weight.codes.shape[3:], 1))
        return TernaryTensor(codes, weight.positive, weight.negative, 0)
    return DenseWeight(
        weight.values.reshape(*weight.values.shape[:2], *spatial3(weight.values.shape[2:], 1)), weight.scale, 0
    )


def _convolution(graph: Graph, producers: dict[str, Node], node: Node) -> Windowed | None:
    weight = as_weight(graph, node.inputs[1], 0)
    rank = len(graph.values[node.inputs[0]].shape)
    if weight is None or weight.channel_axis != 0 or not 3 <= rank <= 5:
        return None
    weight = _spatial(weight)
    shape = weight.shape if isinstance(weight, TernaryTensor) else weight.values.shape
    bias = np.zeros(shape[0], np.float32)
    if len(node.inputs) > 2 and node.inputs[2]:
        if node.inputs[2] not in graph.constants:
            return None
        bias = graph.constants[node.inputs[2]].astype(np.float32)
    window = _window(graph, node, list(shape[-(rank - 2) :]))
    source = resolve(graph, producers, node.inputs[0])
    return Windowed(
        node.name,
        "Conv",
        [source],
        list(node.outputs),
        scale=np.ones(shape[0], np.float32),
        bias=bias,
        window=window,
        weight=weight,
    )


def _linear(graph: Graph, producers: dict[str, Node], node: Node) -> Linear | None:
    name = node.inputs[1]
    transposed = node.op == "Gemm" and bool(node.attrs.get("transB", 0))
    weight = as_weight(graph, name, 0 if transposed else 1)
    if weight is None or node.inputs[0] not in graph.values:
        return None
    if node.op == "Gemm" and (
        node.attrs.get("transA", 0) or node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0
    ):
        return None
    array = weight.codes[0] if isinstance(weight, TernaryTensor) else weight.values
    if array.ndim != 2:
        return None
    axis = 0 if transposed else 1
    if isinstance(weight, TernaryTensor):
        weight = _one_level(weight)
    one = isinstance(weight, TernaryTensor) and weight.positive.shape[1] == 1
    if weight.channel_axis != axis and not one and not (isinstance(weight, DenseWeight) and np.ptp(weight.scale) == 0):
        return None
    if isinstance(weight, TernaryTensor):
        codes = weight.codes if transposed else np.ascontiguousarray(weight.codes.transpose(0, 2, 1))
        weight = TernaryTensor(codes, weight.positive, weight.negative, 0)
    else:
        values = weight.values if transposed else np.ascontiguousarray(weight.values.T)
        scale = (
            weight.scale
            if weight.channel_axis == axis
            else np.full(values.shape[0], weight.scale.ravel()[0], np.float32)
        )
        weight = DenseWeight(values, scale, 0)
    outputs = weight.shape[0] if isinstance(weight, TernaryTensor) else weight.values.shape[0]
    bias = np.zeros(outputs, np.float32)
    if node.op == "Gemm" and len(node.inputs) > 2 and node.inputs[2]:
        if node.inputs[2] not in graph.constants:
            return None
        bias = np.broadcast_to(graph.constants[node.inputs[2]].astype(np.float32).reshape(-1), (outputs,)).copy()
    source = resolve(graph, producers, node.inputs[0])
    return Linear(
        node.name, node.op, [source], list(node.outputs), scale=np.ones(outputs, np.float32), bias=bias, weight=weight
    )


def _one_level(weight: TernaryTensor) -> TernaryTensor:
    """The weight with one level a term for all channels, where they are equal: any axis may have the channels then."""
    levels = weight.positive, weight.negative
    if any((level != level[:, :1]).any() for level in levels):
        return weight
    return replace(weight, positive=weight.positive[:, :1], negative=weight.negative[:, :1])


def _pool(graph: Graph, node: Node, source: str) -> Pool | None:
    if len([n for n in node.outputs if n]) > 1 or node.attrs.get("storage_order", 0):
        return None
    window = _window(graph, node, list(node.attrs["kernel_shape"]))
    dims: Triple = spatial3(graph.values[node.inputs[0]].shape[2:], 1)
    size = spatial3(graph.values[node.outputs[0]].shape[2:], 1)
    if window.output(dims) != size:
        # ceil_mode: more pixels after the end; ONNX does not count them in an average.
        grow = [
            max(0, (n - 1) * s + d * (k - 1) + 1 - lo - m)
            for n, s, d, k, (lo, _), m in zip(
                size, window.strides, window.dilations, window.kernel, window.pads, dims, strict=True
            )
        ]
        if node.op == "AveragePool" and node.attrs.get("count_include_pad", 0):
            return None
        pads = tuple((lo, max(hi, g)) for (lo, hi), g in zip(window.pads, grow, strict=True))
        window = Window(window.kernel, window.strides, (pads[0], pads[1], pads[2]), window.dilations)
        if window.output(dims) != size:
            return None
    fused = Pool(node.name, node.op, [source], list(node.outputs), window=window)
    fused.kind = "max" if node.op == "MaxPool" else "average"
    fused.include_pad = bool(node.attrs.get("count_include_pad", 0))
    return fused


def _all_pixels(graph: Graph, node: Node) -> bool:
    shape = graph.values[node.inputs[0]].shape
    axes = node.attrs.get("axes")
    if len(node.inputs) > 1 and node.inputs[1] in graph.constants:
        axes = graph.constants[node.inputs[1]].ravel().tolist()
    return axes is not None and len(shape) >= 3 and sorted(a % len(shape) for a in axes) == list(range(2, len(shape)))
