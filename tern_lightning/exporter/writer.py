"""From a module to an ONNX file whose ternary weights take two bits each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from tern_lightning.exporter import prepare, quantize, verify
from tern_lightning.exporter.batch import counting
from tern_lightning.exporter.bias import separate_biases
from tern_lightning.exporter.errors import ExportError
from tern_lightning.exporter.fold import fold_batch_norms
from tern_lightning.exporter.graph import Layer, Network, constant
from tern_lightning.exporter.naming import name_network
from tern_lightning.exporter.options import OnnxOptions, keywords_of
from tern_lightning.exporter.runtime import Comparison
from tern_lightning.exporter.samples import Batch
from tern_lightning.exporter.trace import IR_VERSION, trace
from tern_lightning.exporter.weights import write_weights
from tern_lightning.nn.activation_quantizer import LayerRange, activation_ranges
from tern_lightning.nn.learned_input import learned_inputs
from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.version import __version__
from tvm_schedules.verify.batch_axis import PROPERTY


@dataclass(frozen=True)
class OnnxExport:
    """A written network and what is known about it.

    Attributes:
        model: The network.
        ternary: Ternary weights by layer path, as in the module (before normalization was folded into their levels).
        dense: Paths of the layers with other weights.
        ranges: Quantization of every 8-bit tensor by its name in the file; empty with float activations.
        float_check: Float network against the module; None when not verified.
        quantized_check: 8-bit network against torch with the same rounding, from layer to layer; None with float
            activations.
        drift: 8-bit network against the module as it is in evaluation mode: what the change of arithmetic costs. It is
            not held against a tolerance.
        layer_ranges: Ranges of layer inputs by the layer's path; empty with float activations.
        computed: Ternary layers whose forward multiplies by what it makes of the weight, which is dense in the file.
    """

    model: onnx.ModelProto
    ternary: Mapping[str, TernaryTensor]
    dense: tuple[str, ...]
    ranges: Mapping[str, LayerRange]
    float_check: Comparison | None = None
    quantized_check: Comparison | None = None
    drift: Comparison | None = None
    layer_ranges: Mapping[str, LayerRange] = field(default_factory=dict)
    computed: tuple[str, ...] = ()


@keywords_of(OnnxOptions)
def to_onnx(module: nn.Module, sample_args: Tensor | Sequence[Tensor], options: OnnxOptions) -> onnx.ModelProto:
    """Write a module as ONNX; :func:`write_onnx` takes the same arguments and also reports.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(8, 4)
        >>> layer.weight.data = torch.randint(-1, 2, (4, 8)) * 0.5
        >>> model = to_onnx(layer, torch.randn(1, 8))
        >>> [node.op_type for node in model.graph.node]
        ['DequantizeLinear', 'Gemm']
    """
    return write_with(module, sample_args, options).model


@keywords_of(OnnxOptions)
def write_onnx(module: nn.Module, sample_args: Tensor | Sequence[Tensor], options: OnnxOptions) -> OnnxExport:
    """Write a module as ONNX (opset 25) with INT2 ternary weights, and check the result in onnxruntime.

    Args:
        module: Trained with a ternary callback, or one whose convolution or linear weights are exactly ternary by
            value. It is not changed, and exported as in evaluation mode.
        sample_args: Positional arguments of ``forward``; the network gets their shapes.
        options: Keyword arguments ``activations``, ``samples`` and so on: the fields of
            :class:`tern_lightning.exporter.options.OnnxOptions`.

    Raises:
        ExportError: The module cannot be exported; the message names the layer.
        VerificationError: The written network computes something else.
        ValueError: An argument is outside its range.
    """
    return write_with(module, sample_args, options)


@dataclass(frozen=True)
class _Draft:
    """A float network that has been written, and what it was made of.

    Attributes:
        network: The network.
        module: The plain module that was traced.
        batches: Inputs for calibration and checks.
        sites: Path and node of every layer, in the order of execution.
        dense: Axis of the output channels of layers that are not ternary, by path.
        computed: Ternary layers that are in no product, while a dense one is theirs, or no layer's and of their shape.
    """

    network: Network
    module: nn.Module
    batches: Sequence[Batch]
    sites: Sequence[tuple[str, ir.Node]]
    dense: Mapping[str, int]
    computed: tuple[str, ...] = ()


def write_with(module: nn.Module, sample_args: Tensor | Sequence[Tensor], options: OnnxOptions) -> OnnxExport:
    """:func:`write_onnx` with its options as one object."""
    args = _check_arguments(sample_args)
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    trained = dict(options.ranges) if options.ranges is not None else activation_ranges(module)
    trained |= _trained_levels(module)
    prepare.check_finite(module)
    found = prepare.find_ternary(module, options.ternary)
    if not options.allow_zero_layers:
        prepare.check_not_empty(found)
    draft = _draft(prepare.plain_copy(module, found), args, found, options)
    used = {path: found[path] for path in found if path not in draft.dense and path not in draft.computed}
    result = OnnxExport(ir.to_proto(draft.network.model), used, tuple(draft.dense), {}, computed=draft.computed)
    given = options.ternary is not None
    if options.verify and options.dense_kind == "float32":
        reference = draft.module if given else prepare.reference_copy(module)
        result = replace(result, float_check=_check_float(result.model, draft, reference))
    if options.activations == "uint8":
        as_trained = draft.module if given else prepare.reference_copy(module, quantized=True)
        result = _quantize(result, draft, as_trained, trained, options)
    verify.check_model(result.model)
    return result


def _draft(
    plain: nn.Module, args: tuple[Tensor, ...], ternary: Mapping[str, TernaryTensor], options: OnnxOptions
) -> _Draft:
    """Trace a module and write its weights; activations are float yet."""
    batches = _batches(options.samples, args)
    network = trace(plain, args, ternary)
    fold_batch_norms(network)
    name_network(network)
    sites = [(layer.path, layer.node) for layer in network.layers]
    dense = {layer.path: _parameter_axis(layer, plain) for layer in network.layers if layer.ternary is None}
    computed = _computed(network, ternary)
    write_weights(network, options.dense_kind)
    RemoveUnusedNodesPass()(network.model)
    _drop_unused(network)
    _describe(network, ternary, options.activations)
    _say_batch(network, plain, batches)
    return _Draft(network, plain, batches, sites, dense, computed)


def _computed(network: Network, ternary: Mapping[str, TernaryTensor]) -> tuple[str, ...]:
    """Ternary layers whose forward makes another weight of theirs, such as a standardized one.

    They are in no product, while one that is no layer's has a constant of their shape.
    """
    there = {layer.path for layer in network.layers}
    shapes: set[tuple[int, ...]] = set()
    for node in network.model.graph.all_nodes():
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            arrays = [array for value in node.inputs[:2] if (array := constant(value)) is not None]
            shapes |= {shape for array in arrays for shape in (array.shape, array.shape[::-1])}
    return tuple(path for path, weight in ternary.items() if path not in there and weight.shape in shapes)


#: Batches that the checks run; calibration takes all of them.
CHECKED_BATCHES = 8


def _check_float(model: onnx.ModelProto, draft: _Draft, reference: nn.Module) -> Comparison:
    """Hold the float network against the module."""
    some, by_call = draft.batches[:CHECKED_BATCHES], _inputs_by_call(draft.sites, [], {})
    if by_call:
        # A value on the edge between two trained levels may fall to either side: layer by layer, as with 8 bits.
        found = verify.compare_quantized(model, reference, some, by_call, {})
    else:
        found = verify.compare_float(model, reference, some)
    verify.require(found, "the module")
    return found


def _quantize(
    written: OnnxExport,
    draft: _Draft,
    as_trained: nn.Module,
    trained: Mapping[str, LayerRange],
    options: OnnxOptions,
) -> OnnxExport:
    """Quantize the activations of a draft, and hold the result against the module as it was ``trained``."""
    tensors, graph = quantize.find_tensors(draft.sites), draft.network.graph
    if options.samples is not None:  # which the ranges of what no layer reads come from
        tensors += quantize.find_gated(graph, tensors)
    missing = [str(t.value.name) for t in tensors if not any(path in trained for path in t.layers)]
    calibrated = (
        quantize.calibrate(written.model, missing, draft.batches, options.bits, options.percentile) if missing else {}
    )
    ranges = quantize.choose_ranges(tensors, trained, calibrated)
    by_layer = {path: ranges[str(tensor.value.name)] for tensor in tensors for path in tensor.layers}
    quantize.insert_pairs(graph, tensors, ranges)
    by_call = _inputs_by_call(draft.sites, tensors, ranges)
    separate_biases(graph)
    model = ir.to_proto(draft.network.model)
    result = replace(written, model=model, ranges=ranges, layer_ranges=by_layer)
    if not options.verify:
        return result
    rounded = draft.dense if options.dense_kind == "int8" else {}
    some = draft.batches[:CHECKED_BATCHES]
    fidelity = verify.compare_quantized(model, draft.module, some, by_call, rounded)
    verify.require(fidelity, "torch with the same 8-bit rounding")
    return replace(result, quantized_check=fidelity, drift=verify.compare_drift(model, as_trained, some))


def _parameter_axis(layer: Layer, module: nn.Module) -> int:
    """Axis of the output channels in the module's own parameter; the graph may hold inputs by outputs turned."""
    found = dict(module.named_parameters(remove_duplicate=False)).get(layer.parameter)
    if found is not None and found.ndim < layer.weight.ndim:
        return layer.axis - 1  # of a recurrent layer, whose weight has an axis of one direction in front
    if found is None or layer.weight.ndim != 2:
        return layer.axis
    own = found.detach().cpu().numpy()
    turned = np.array_equal(own, layer.weight.T) and not np.array_equal(own, layer.weight)
    return 1 - layer.axis if turned else layer.axis


def _inputs_by_call(
    sites: Sequence[tuple[str, ir.Node]],
    tensors: Sequence[quantize.QuantizedTensor],
    ranges: Mapping[str, LayerRange],
) -> dict[str, list[tuple[str, LayerRange | None]]]:
    """Name and range of every layer's rounded input, in the order of its calls; no range for trained levels."""
    of_node = {id(node): ranges[str(tensor.value.name)] for tensor in tensors for node in tensor.nodes}
    calls: dict[str, list[tuple[str, LayerRange | None]]] = {}
    for path, node in sites:
        value = node.inputs[0]
        if value is not None and (id(node) in of_node or quantize.is_dequantized(value)):
            calls.setdefault(path, []).append((str(value.name), of_node.get(id(node))))
    return calls


def _check_arguments(sample_args: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    args = (sample_args,) if isinstance(sample_args, Tensor) else tuple(sample_args)
    if not args or not all(isinstance(arg, Tensor) for arg in args):
        raise ValueError(f"sample_args must be tensors, got {[type(arg).__name__ for arg in args]}")
    return tuple(arg.detach().cpu() for arg in args)


def _batches(samples: Sequence[Batch] | None, args: tuple[Tensor, ...]) -> list[Batch]:
    """Check the samples against the traced shapes."""
    own: Batch = tuple(arg.numpy() for arg in args)
    batches = [own] if samples is None else [tuple(np.asarray(array) for array in batch) for batch in samples]
    expected = [(array.shape, array.dtype) for array in own]
    for batch in batches:
        given = [(array.shape, array.dtype) for array in batch]
        if given != expected:
            raise ExportError(f"samples have shapes and types {given}, the network takes {expected}")
        if not all(np.isfinite(array).all() for array in batch if array.dtype.kind == "f"):
            raise ExportError("samples hold NaN or infinity")
    return batches


def _trained_levels(module: nn.Module) -> dict[str, LayerRange]:
    """The grids of layer inputs whose trained levels differ, by path."""
    grids = {path: hook.range() for path, hook in learned_inputs(module).items()}
    return {path: grid for path, grid in grids.items() if grid is not None}


def _drop_unused(network: Network) -> None:
    """Remove initializers that nothing reads, such as folded biases."""
    initializers = network.graph.initializers
    for name in [name for name, value in initializers.items() if not value.uses() and not value.is_graph_output()]:
        del initializers[name]


def _describe(network: Network, ternary: Mapping[str, TernaryTensor], activations: str) -> None:
    """Write the version, the producer and the ternary layers' statistics into the model's metadata."""
    model = network.model
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "tern-lightning", __version__
    model.graph.name = model.graph.name or "network"
    for value in (*network.graph.inputs, *network.graph.outputs):
        value.metadata_props.clear()
    model.metadata_props["tern.activations"] = activations
    for path, weight in ternary.items():
        facts = {"sparsity": round(weight.sparsity(), 6), "entropy": round(weight.entropy(), 6), "terms": weight.terms}
        model.metadata_props[f"tern.layer.{path}"] = json.dumps(facts)


def _say_batch(network: Network, module: nn.Module, batches: Sequence[Batch]) -> None:
    """Write into the model's metadata which inputs count samples, if the module tells."""
    names = [str(value.name) for value in network.graph.inputs]
    counted = counting(module, batches, names) if len(names) == len(batches[0]) else None
    if counted is not None:
        network.model.metadata_props[PROPERTY] = "\n".join(name for name in names if name in counted)
