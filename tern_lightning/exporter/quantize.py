"""8-bit activations: which tensors, their ranges, and the QuantizeLinear/DequantizeLinear pairs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from tern_lightning.exporter.errors import ExportError
from tern_lightning.exporter.graph import add_constant
from tern_lightning.exporter.runtime import run_batches
from tern_lightning.nn.activation_quantizer import ActivationRange, LayerRange
from tern_lightning.nn.token_quantizer import SMALLEST_TOKEN, TokenRange

log = logging.getLogger(__name__)


POOLS = ("ReduceMean", "GlobalAveragePool", "ReduceMax", "GlobalMaxPool")
"""What a gate is computed from: one number of a channel's pixels."""


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor that feeds layers with weights, or is gated.

    Attributes:
        value: The tensor in the graph.
        layers: Paths of the layers that it feeds; none for what is gated.
        nodes: The nodes of these layers.
    """

    value: ir.Value
    layers: tuple[str, ...]
    nodes: tuple[ir.Node, ...]


def find_tensors(sites: Sequence[tuple[str, ir.Node]]) -> list[QuantizedTensor]:
    """Return the tensors to quantize: each computed or fed tensor that a layer multiplies by its weight, once.

    Those that are dequantized integers already (inputs with trained levels) are not among them.

    Args:
        sites: ``(path, node)`` of the layers in the order of execution.
    """
    feeds: dict[int, tuple[ir.Value, list[str], list[ir.Node]]] = {}
    for path, node in sites:
        value = node.inputs[0]
        if value is None or value.is_initializer() or is_dequantized(value):
            continue
        if value.dtype in (None, ir.DataType.FLOAT):
            entry = feeds.setdefault(id(value), (value, [], []))
            entry[1].append(path)
            entry[2].append(node)
    return [QuantizedTensor(value, tuple(paths), tuple(nodes)) for value, paths, nodes in feeds.values()]


def find_gated(graph: ir.Graph, tensors: Sequence[QuantizedTensor]) -> list[QuantizedTensor]:
    """Return the images that only pools and factors made of these read: Squeeze-and-Excitation Networks (2018).

    No layer reads them, so they would be the only float images of a network, four times as large as others.

    Args:
        graph: The network.
        tensors: What is quantized already.
    """
    there = {id(tensor.value) for tensor in tensors}
    found = []
    for node in graph:
        for value in node.outputs:
            users = [user for user, _ in value.uses()]
            gates = [user for user in users if user.op_type == "Mul" and _is_gated(value, user)]
            pools = [user for user in users if user.op_type in POOLS]
            alone = len(gates) + len(pools) == len(users) and not value.is_graph_output()
            known = id(value) in there or is_dequantized(value) or value.dtype not in (None, ir.DataType.FLOAT)
            if gates and pools and alone and not known:
                found.append(QuantizedTensor(value, (), ()))
    return found


def _is_gated(value: ir.Value, product: ir.Node) -> bool:
    """Whether a product multiplies whole channels of an image by what is computed."""
    others = [one for one in product.inputs if one is not None and one is not value]
    if len(others) != 1 or others[0].is_initializer() or value.shape is None or others[0].shape is None:
        return False
    image, gate = list(value.shape), list(others[0].shape)
    return len(image) == len(gate) >= 3 and gate[1] == image[1] and all(size == 1 for size in gate[2:])


def is_dequantized(value: ir.Value) -> bool:
    """Whether a tensor is computed and rounded: the output of DequantizeLinear after QuantizeLinear.

    Modules may round by operators of their own: integers from Round and Clip, then divided by scales, count too.
    """
    node = value.producer()
    if node is not None and node.op_type == "DequantizeLinear":
        before = _before(node)
        return before is not None and before.op_type == "QuantizeLinear"
    if node is not None and node.op_type in ("Div", "Mul"):
        node = _before(node)
    kinds = []
    while node is not None and node.op_type in ("Round", "Clip", "Cast"):
        kinds.append(node.op_type)
        node = _before(node)
    return {"Round", "Clip"} <= {*kinds}


def _before(node: ir.Node) -> ir.Node | None:
    """What makes the first input of a node."""
    source = node.inputs[0] if node.inputs else None
    return source.producer() if source is not None else None


def choose_ranges(
    tensors: Sequence[QuantizedTensor],
    trained: Mapping[str, LayerRange],
    calibrated: Mapping[str, ActivationRange],
) -> dict[str, LayerRange]:
    """Return every tensor's range by name: the union of its layers' trained ranges, else the calibrated one.

    Raises:
        ExportError: Layers were trained to round one tensor per token and with a fixed scale.
    """
    chosen: dict[str, LayerRange] = {}
    for tensor in tensors:
        name = str(tensor.value.name)
        own = {path: trained[path] for path in tensor.layers if path in trained}
        fixed = [one for one in own.values() if isinstance(one, ActivationRange)]
        tokens = [one for one in own.values() if isinstance(one, TokenRange)]
        if not own:
            chosen[name] = calibrated[name]
            continue
        if tokens and len(tokens) < len(tensor.layers):
            raise ExportError(
                f"layers {', '.join(tensor.layers)} read one tensor, which not all of them round per token: train them "
                "with one granularity of ActivationQuantization"
            )
        chosen[name] = max(tokens, key=lambda one: one.bits) if tokens else ActivationRange.union(fixed)
        if len(set(own.values())) > 1:
            log.debug("%s feeds layers with different ranges %s: they get %s", name, own, chosen[name])
    return chosen


def calibrate(
    model: onnx.ModelProto,
    names: Sequence[str],
    samples: Iterable[tuple[NDArray[np.generic], ...]],
    bits: int = 8,
    percentile: float | None = None,
) -> dict[str, ActivationRange]:
    """Observe tensors of a float network in onnxruntime.

    Args:
        model: The network with float activations.
        names: Tensors to observe.
        samples: Batches of inputs, in the order and shapes of the graph's inputs; at least one.
        bits: Width of the integers.
        percentile: None takes the smallest and largest value of all batches. A number in (50, 100] takes the average
            over batches of that percentile and of its complement (for the low end), which ignores outliers.

    Raises:
        ExportError: There is no sample, or a tensor is not finite on one.
    """
    bounds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for arrays in run_batches(model, samples, outputs=names):
        for name, array in zip(names, arrays, strict=True):
            if not np.isfinite(array).all():
                raise ExportError(f"calibration gives NaN or infinity in {name}: check the samples")
            if percentile is None:
                bounds[name].append((float(array.min()), float(array.max())))
            else:
                low, high = np.percentile(np.asarray(array, dtype=np.float64), [100.0 - percentile, percentile])
                bounds[name].append((float(low), float(high)))
    if not all(bounds.values()):
        raise ExportError("no samples to calibrate the 8-bit activations with")
    ranges = {}
    for name, pairs in bounds.items():
        lows, highs = np.asarray(pairs).T
        low, high = (lows.min(), highs.max()) if percentile is None else (lows.mean(), highs.mean())
        ranges[name] = ActivationRange.from_bounds(float(low), float(high), bits)
    return ranges


def insert_pairs(graph: ir.Graph, tensors: Sequence[QuantizedTensor], ranges: Mapping[str, LayerRange]) -> None:
    """Put QuantizeLinear and DequantizeLinear behind every tensor.

    The integers are UINT8. With fewer than 8 bits a Clip before the pair keeps them in their range. Every reader in the
    graph gets the dequantized tensor, and where tokens have scales of their own only the layers.
    """
    for tensor in tensors:
        value, chosen = tensor.value, ranges[str(tensor.value.name)]
        users = list(value.uses())
        if isinstance(chosen, TokenRange):
            nodes = _by_token(graph, value, chosen)
            users = [use for use in users if any(use[0] is node for node in tensor.nodes)]
        else:
            low, high = (chosen.low, chosen.high) if chosen.bits < 8 else (None, None)
            nodes = _pair(graph, value, value, chosen.scale, chosen.zero_point, low, high)
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], nodes)
        else:
            producer.append(nodes)
        for user, index in users:
            if user not in nodes:
                user.replace_input_with(index, nodes[-1].outputs[0])


def _pair(
    graph: ir.Graph,
    value: ir.Value,
    source: ir.Value,
    step: float,
    zero: int,
    low: float | None = None,
    high: float | None = None,
) -> list[ir.Node]:
    """The nodes that quantize and dequantize ``source``, clipped if there are bounds, with the names of ``value``."""
    name = str(value.name)
    stem = name.replace("/", ".")
    scale = add_constant(graph, f"{stem}.scale", np.asarray(step, dtype=np.float32))
    zero_point = add_constant(graph, f"{stem}.zero_point", np.asarray(zero, dtype=np.uint8))
    nodes = []
    if low is not None and high is not None:
        bounds = [
            add_constant(graph, f"{stem}.{end}", np.asarray(bound, dtype=np.float32))
            for end, bound in (("low", low), ("high", high))
        ]
        nodes.append(_node("Clip", [source, *bounds], f"{name}/activation_clip", f"{stem}.clipped"))
        source = nodes[-1].outputs[0]
    operands = [source, scale, zero_point]
    nodes.append(_node("QuantizeLinear", operands, f"{name}/activation_quantize", f"{stem}.quantized"))
    operands = [nodes[-1].outputs[0], scale, zero_point]
    nodes.append(_node("DequantizeLinear", operands, f"{name}/activation_dequantize", f"{stem}.dequantized"))
    return nodes


def _by_token(graph: ir.Graph, value: ir.Value, chosen: TokenRange) -> list[ir.Node]:
    """The nodes that round a tensor with the scale of every token, and take it out again."""
    name = str(value.name)
    stem = name.replace("/", ".")
    axis = add_constant(graph, f"{stem}.token_axis", np.array([-1], dtype=np.int64))
    least = add_constant(graph, f"{stem}.token_least", np.asarray(SMALLEST_TOKEN, dtype=np.float32))
    most = add_constant(graph, f"{stem}.token_levels", np.asarray(chosen.high, dtype=np.float32))
    nodes = [_node("Abs", [value], f"{name}/token_abs", f"{stem}.token_abs")]
    nodes.append(_node("ReduceMax", [nodes[-1].outputs[0], axis], f"{name}/token_max", f"{stem}.token_max"))
    nodes.append(_node("Clip", [nodes[-1].outputs[0], least], f"{name}/token_clip", f"{stem}.token_range"))
    nodes.append(_node("Div", [most, nodes[-1].outputs[0]], f"{name}/token_scale", f"{stem}.token_scale"))
    scale = nodes[-1].outputs[0]
    nodes.append(_node("Mul", [value, scale], f"{name}/token_codes", f"{stem}.token_codes"))
    low, high = (float(chosen.low), float(chosen.high)) if chosen.bits < 8 else (None, None)
    nodes += _pair(graph, value, nodes[-1].outputs[0], 1.0, -TokenRange().low, low, high)
    nodes.append(_node("Div", [nodes[-1].outputs[0], scale], f"{name}/token_value", f"{stem}.token_value"))
    return nodes


def _node(op_type: str, inputs: Sequence[ir.Value], name: str, output: str) -> ir.Node:
    node = ir.node(op_type, inputs, name=name)
    node.outputs[0].name = output
    return node
