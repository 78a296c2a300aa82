"""From a module to an ONNX file whose ternary weights take two bits each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from tern_lightning.exporter import prepare, quantize, verify
from tern_lightning.exporter.batch import counting
from tern_lightning.exporter.bias import separate_biases
from tern_lightning.exporter.errors import ExportError
from tern_lightning.exporter.fold import fold_batch_norms
from tern_lightning.exporter.graph import Layer, Network
from tern_lightning.exporter.naming import name_network
from tern_lightning.exporter.runtime import Comparison
from tern_lightning.exporter.trace import IR_VERSION, trace
from tern_lightning.exporter.weights import DenseWeights, write_weights
from tern_lightning.nn.activation_quantizer import ActivationRange, activation_ranges
from tern_lightning.nn.learned_input import learned_inputs
from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.frontend.batch_axis import PROPERTY

Activations = Literal["float32", "uint8"]
Batch = tuple[NDArray[np.generic], ...]


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
    """

    model: onnx.ModelProto
    ternary: Mapping[str, TernaryTensor]
    dense: tuple[str, ...]
    ranges: Mapping[str, ActivationRange]
    float_check: Comparison | None = None
    quantized_check: Comparison | None = None
    drift: Comparison | None = None


def to_onnx(
    module: nn.Module,
    sample_args: Tensor | Sequence[Tensor],
    *,
    ternary: Mapping[str, TernaryTensor] | None = None,
    activations: Activations = "float32",
    ranges: Mapping[str, ActivationRange] | None = None,
    dense_weights: DenseWeights | None = None,
    **options: object,
) -> onnx.ModelProto:
    """Write a module as ONNX; :func:`write_onnx` takes the same arguments and also reports.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(8, 4)
        >>> layer.weight.data = torch.randint(-1, 2, (4, 8)) * 0.5
        >>> model = to_onnx(layer, torch.randn(1, 8))
        >>> [node.op_type for node in model.graph.node]
        ['DequantizeLinear', 'Gemm']
    """
    return write_onnx(
        module,
        sample_args,
        ternary=ternary,
        activations=activations,
        ranges=ranges,
        dense_weights=dense_weights,
        **options,  # type: ignore[arg-type]
    ).model


def write_onnx(
    module: nn.Module,
    sample_args: Tensor | Sequence[Tensor],
    *,
    ternary: Mapping[str, TernaryTensor] | None = None,
    activations: Activations = "float32",
    ranges: Mapping[str, ActivationRange] | None = None,
    dense_weights: DenseWeights | None = None,
    samples: Sequence[Batch] | None = None,
    bits: int = 8,
    percentile: float | None = None,
    allow_zero_layers: bool = False,
    check: bool = True,
) -> OnnxExport:
    """Write a module as ONNX (opset 25) with INT2 ternary weights, and check the result in onnxruntime.

    Args:
        module: Trained with a ternary callback, or one whose convolution or linear weights are exactly ternary by
            value. It is not changed, and exported as in evaluation mode.
        sample_args: Positional arguments of ``forward``; the network gets their shapes.
        ternary: Ternary weights by layer path, in place of those found in the module.
        activations: ``"uint8"`` quantizes every tensor that feeds a layer with weights.
        ranges: Ranges of layer inputs by path; None takes those the module was trained with. Others are calibrated.
        dense_weights: What becomes of weights that are not ternary; None is int8 with 8-bit activations, else float32.
        samples: Batches of inputs of the shapes of ``sample_args`` for calibration and for the check; None is
            ``sample_args``.
        bits: Width of calibrated activations, 2 to 8.
        percentile: For calibration, see :func:`tern_lightning.exporter.quantize.calibrate`.
        allow_zero_layers: Accept ternary layers with only zeros.
        check: Run the comparisons; onnx's own checks are always run.

    Raises:
        ExportError: The module cannot be exported; the message names the layer.
        VerificationError: The written network computes something else.
        ValueError: An argument is outside its range.
    """
    args = _check_arguments(sample_args, activations, dense_weights, percentile)
    dense_kind = dense_weights or ("int8" if activations == "uint8" else "float32")
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    trained = dict(ranges) if ranges is not None else activation_ranges(module)
    trained |= _trained_levels(module)
    prepare.check_finite(module)
    found = prepare.find_ternary(module, ternary)
    if not allow_zero_layers:
        prepare.check_not_empty(found)
    plain = prepare.plain_copy(module, found)
    batches = _batches(samples, args)

    network = trace(plain, args, found)
    fold_batch_norms(network)
    name_network(network)
    sites = [(layer.path, layer.node) for layer in network.layers]
    dense = {layer.path: _parameter_axis(layer, plain) for layer in network.layers if layer.ternary is None}
    write_weights(network, dense_kind)
    RemoveUnusedNodesPass()(network.model)
    _drop_unused(network)
    _describe(network, found, activations)
    _say_batch(network, plain, batches)
    float_model = ir.to_proto(network.model)
    used = {path: found[path] for path in found if path not in dense}
    result = OnnxExport(float_model, used, tuple(dense), {})
    if check and dense_kind == "float32":
        reference = plain if ternary is not None else prepare.reference_copy(module)
        by_call = _inputs_by_call(sites, [], {})
        if by_call:
            # A value on the edge between two trained levels may fall to either side: layer by layer, as with 8 bits.
            compared = verify.compare_quantized(float_model, reference, batches[:CHECKED], by_call, {})
        else:
            compared = verify.compare_float(float_model, reference, batches[:CHECKED])
        result = replace(result, float_check=compared)
        verify.require(result.float_check, "the module")  # type: ignore[arg-type]
    if activations == "uint8":
        as_trained = plain if ternary is not None else prepare.reference_copy(module, quantized=True)
        result = _quantize(
            result, network, sites, plain, as_trained, trained, batches, dense, dense_kind, bits, percentile, check
        )
    verify.check_model(result.model)
    return result


#: Batches that the checks run; calibration takes all of them.
CHECKED = 8


def _quantize(
    written: OnnxExport,
    network: Network,
    sites: Sequence[tuple[str, ir.Node]],
    plain: nn.Module,
    as_trained: nn.Module,
    trained: Mapping[str, ActivationRange],
    batches: Sequence[Batch],
    dense: Mapping[str, int],
    dense_kind: DenseWeights,
    bits: int,
    percentile: float | None,
    check: bool,
) -> OnnxExport:
    tensors = quantize.find_tensors(sites)
    missing = [str(t.value.name) for t in tensors if not any(path in trained for path in t.layers)]
    calibrated = quantize.calibrate(written.model, missing, batches, bits, percentile) if missing else {}
    ranges = quantize.choose_ranges(tensors, trained, calibrated)
    quantize.insert_pairs(network.graph, tensors, ranges)
    by_call = _inputs_by_call(sites, tensors, ranges)
    separate_biases(network.graph)
    model = ir.to_proto(network.model)
    result = replace(written, model=model, ranges=ranges)
    if not check:
        return result
    rounded = dense if dense_kind == "int8" else {}
    some = batches[:CHECKED]
    fidelity = verify.compare_quantized(model, plain, some, by_call, rounded)
    verify.require(fidelity, "torch with the same 8-bit rounding")
    return replace(result, quantized_check=fidelity, drift=verify.compare_drift(model, as_trained, some))


def _parameter_axis(layer: Layer, module: nn.Module) -> int:
    """Axis of the output channels in the module's own parameter; the graph may hold inputs by outputs turned."""
    found = dict(module.named_parameters(remove_duplicate=False)).get(layer.parameter)
    if found is None or layer.weight.ndim != 2:
        return layer.axis
    own = found.detach().cpu().numpy()
    turned = np.array_equal(own, layer.weight.T) and not np.array_equal(own, layer.weight)
    return 1 - layer.axis if turned else layer.axis


def _inputs_by_call(
    sites: Sequence[tuple[str, ir.Node]],
    tensors: Sequence[quantize.QuantizedTensor],
    ranges: Mapping[str, ActivationRange],
) -> dict[str, list[tuple[str, ActivationRange | None]]]:
    """Name and range of every layer's rounded input, in the order of its calls; no range for trained levels."""
    of_node = {id(node): ranges[str(tensor.value.name)] for tensor in tensors for node in tensor.nodes}
    calls: dict[str, list[tuple[str, ActivationRange | None]]] = {}
    for path, node in sites:
        value = node.inputs[0]
        if value is not None and (id(node) in of_node or quantize.is_dequantized(value)):
            calls.setdefault(path, []).append((str(value.name), of_node.get(id(node))))
    return calls


def _check_arguments(
    sample_args: Tensor | Sequence[Tensor], activations: str, dense_weights: str | None, percentile: float | None
) -> tuple[Tensor, ...]:
    if activations not in ("float32", "uint8"):
        raise ValueError(f"activations must be 'float32' or 'uint8', got {activations!r}")
    if dense_weights not in (None, "float32", "int8"):
        raise ValueError(f"dense_weights must be 'float32', 'int8' or None, got {dense_weights!r}")
    if percentile is not None and not 50 < percentile <= 100:
        raise ValueError(f"percentile must be in (50, 100], got {percentile}")
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


def _trained_levels(module: nn.Module) -> dict[str, ActivationRange]:
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
    model.producer_name, model.producer_version = "tern-lightning", _version()
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


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tern-lightning")
    except PackageNotFoundError:
        return "0"
