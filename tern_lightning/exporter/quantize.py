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
from tern_lightning.nn.activation_quantizer import ActivationRange

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor that feeds layers with weights.

    Attributes:
        value: The tensor in the graph.
        layers: Paths of the layers that it feeds.
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


def is_dequantized(value: ir.Value) -> bool:
    """Whether a tensor is computed and rounded: the output of DequantizeLinear after QuantizeLinear."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.op_type == "DequantizeLinear" else None
    before = source.producer() if source is not None else None
    return before is not None and before.op_type == "QuantizeLinear"


def choose_ranges(
    tensors: Sequence[QuantizedTensor],
    trained: Mapping[str, ActivationRange],
    calibrated: Mapping[str, ActivationRange],
) -> dict[str, ActivationRange]:
    """Return every tensor's range by name: the union of its layers' trained ranges, else the calibrated one."""
    chosen = {}
    for tensor in tensors:
        name = str(tensor.value.name)
        own = {path: trained[path] for path in tensor.layers if path in trained}
        if not own:
            chosen[name] = calibrated[name]
            continue
        chosen[name] = ActivationRange.union(list(own.values()))
        if len(set(own.values())) > 1:
            log.debug("%s feeds layers with different ranges %s: their union is %s", name, own, chosen[name])
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


def insert_pairs(graph: ir.Graph, tensors: Sequence[QuantizedTensor], ranges: Mapping[str, ActivationRange]) -> None:
    """Put QuantizeLinear and DequantizeLinear behind every tensor; every reader in the graph gets the dequantized one.

    The integers are UINT8. With fewer than 8 bits a Clip before the pair keeps them in ``[0, 2**bits - 1]``.
    """
    for tensor in tensors:
        value = tensor.value
        name = str(value.name)
        chosen = ranges[name]
        stem = name.replace("/", ".")
        scale = add_constant(graph, f"{stem}.scale", np.asarray(chosen.scale, dtype=np.float32))
        zero_point = add_constant(graph, f"{stem}.zero_point", np.asarray(chosen.zero_point, dtype=np.uint8))
        nodes = []
        if chosen.bits < 8:
            low = add_constant(graph, f"{stem}.low", np.asarray(chosen.low, dtype=np.float32))
            high = add_constant(graph, f"{stem}.high", np.asarray(chosen.high, dtype=np.float32))
            nodes.append(_node("Clip", [value, low, high], f"{name}/activation_clip", f"{stem}.clipped"))
        source = nodes[-1].outputs[0] if nodes else value
        nodes.append(
            _node("QuantizeLinear", [source, scale, zero_point], f"{name}/activation_quantize", f"{stem}.quantized")
        )
        codes = nodes[-1].outputs[0]
        nodes.append(
            _node(
                "DequantizeLinear", [codes, scale, zero_point], f"{name}/activation_dequantize", f"{stem}.dequantized"
            )
        )
        users = list(value.uses())
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], nodes)
        else:
            producer.append(nodes)
        for user, index in users:
            if user not in nodes:
                user.replace_input_with(index, nodes[-1].outputs[0])


def _node(op_type: str, inputs: Sequence[ir.Value], name: str, output: str) -> ir.Node:
    node = ir.node(op_type, inputs, name=name)
    node.outputs[0].name = output
    return node
