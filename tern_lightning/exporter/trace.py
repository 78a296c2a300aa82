"""A module, traced to a float ONNX graph whose weights stay apart under the names of the module."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from tern_lightning.exporter.errors import ExportError
from tern_lightning.exporter.graph import Layer, Network, add_constant, attribute, constant, join, module_path
from tern_lightning.exporter.prepare import from_values
from tern_lightning.exporter.recurrent import as_placeholders, expand
from tern_lightning.exporter.slices import rows_of, split_constants
from tern_lightning.nn.layer_types import weight_layers, weight_name
from tern_lightning.nn.recurrent_weights import RecurrentWeight
from tern_lightning.ternary_tensor import TernaryTensor

OPSET = 25  # the first with INT2
IR_VERSION = 13  # the first with INT2, the last that onnxruntime 1.31 reads


def trace(module: nn.Module, args: tuple[Tensor, ...], ternary: Mapping[str, TernaryTensor]) -> Network:
    """Trace a module that is in evaluation mode.

    Weights are made inputs of the graph ("ports") before constants are folded, so that no simplification can move,
    merge or transpose them, and each layer is known by the parameter that it multiplies by.

    Args:
        module: Plain float module on the CPU, as :func:`tern_lightning.exporter.prepare.plain_copy` gives it.
        args: Positional arguments of ``forward``; their shapes become those of the graph.
        ternary: Ternary weights by layer path.

    Raises:
        ExportError: ``forward`` fails on ``args``, or torch cannot trace it.
    """
    import onnxscript.optimizer

    model = _export(module, args)
    _name_apart(model.graph)
    names = _Names(module)
    by_parameter = {names.aliases[names.weights[path]]: weight for path, weight in ternary.items()}
    network = Network(model, expand(model.graph, names.aliases, names.owners, by_parameter))
    for node in list(model.graph):
        layer = _cut_weight(model.graph, node, len(network.layers), names, by_parameter)
        if layer is not None:
            network.layers.append(layer)
    try:
        onnxscript.optimizer.optimize_ir(model)
    except Exception as error:
        raise ExportError(f"the graph of {type(module).__name__} cannot be simplified: {_root(error)}") from error
    network.layers = [layer for layer in network.layers if _settle(model.graph, layer)]
    split_constants(model.graph)
    _cut_anonymous(network, names, ternary)
    order = {id(node): index for index, node in enumerate(model.graph)}
    network.layers.sort(key=lambda layer: order[id(layer.node)])
    return network


def _export(module: nn.Module, args: tuple[Tensor, ...]) -> ir.Model:
    try:
        with torch.no_grad(), _no_fast_path():
            module(*args)
    except Exception as error:
        shapes = ", ".join(str(list(arg.shape)) for arg in args)
        raise ExportError(f"{type(module).__name__}.forward fails on inputs of shape {shapes}: {error}") from error
    try:
        # With gradients attention's results lie in memory in a way that torch.onnx may not find again.
        with torch.no_grad(), _quiet(), _no_fast_path(), as_placeholders(module):
            program = torch.onnx.export(
                module, args, dynamo=True, opset_version=OPSET, optimize=False, verbose=False, external_data=False
            )
    except ExportError:
        raise
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        unknown = re.search(r"target=torch\.ops\.([\w.]+?)(\.default)?]", reason)
        hint = ""
        if "data-dependent" in reason:
            hint = (
                ". Its forward decides by the values of a tensor: let it decide by shapes or options "
                "(nn.Transformer and its layers: give tgt_is_causal or is_causal)"
            )
        elif unknown:
            reason = f"there is no ONNX form of {unknown[1]}"
            hint = ", which its forward calls, by itself or in a function of torch: write it with other operators"
        raise ExportError(f"torch.onnx cannot trace {type(module).__name__}: {reason}{hint}") from error
    if program is None:
        raise ExportError(f"torch.onnx gave no graph for {type(module).__name__}")
    return program.model


def _root(error: BaseException) -> BaseException:
    """The error from which the others came."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _name_apart(graph: ir.Graph) -> None:
    """Give results other names than those of parameters, which torch.onnx does not: ``self.t`` and ``x.t()``."""
    taken = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    results = [value for node in graph.all_nodes() for value in node.outputs]
    used = taken | {value.name for value in results}
    for value in results:
        if value.name in taken:
            value.name = next(name for i in count() if (name := f"{value.name}_{i}") not in used)
            used.add(value.name)


class _Names:
    """What parameters are called.

    Attributes:
        aliases: Every name of every parameter, mapped to one name of the tensor.
        weights: Name of the weight of every layer, by path.
        owners: Path of the layer by the name of its weight.
    """

    def __init__(self, module: nn.Module) -> None:
        first: dict[int, str] = {}
        self.aliases = {
            name: first.setdefault(id(value), name) for name, value in module.named_parameters(remove_duplicate=False)
        } | {name: name for name, _ in module.named_buffers(remove_duplicate=False)}
        self.weights = {
            path: path if isinstance(layer, RecurrentWeight) else join(path, weight_name(layer))
            for path, layer in weight_layers(module)
        }
        self.owners = {name: path for path, name in self.weights.items()}

    def path(self, node: ir.Node, parameter: str) -> str:
        """The module that runs the node if the parameter is its own, else (a functional call) the parameter's."""
        scope = module_path(node)
        if scope in self.weights and self.aliases.get(self.weights[scope]) == parameter:
            return scope
        return self.owners.get(parameter, re.sub(r"(^|[._])weight$", "", parameter))


def _cut_weight(
    graph: ir.Graph, node: ir.Node, number: int, names: _Names, ternary: Mapping[str, TernaryTensor]
) -> Layer | None:
    """Put a port in place of the parameter that a node multiplies by; None when the node does not."""
    multiplies = node.op_type in ("Conv", "ConvTranspose") or (node.op_type == "Gemm" and attribute(node, "transB", 0))
    if not multiplies and not _feeds_matmul(node):
        return None
    index = 0 if node.op_type == "Transpose" else 1
    value = node.inputs[index]
    array = constant(value)
    if value is None or array is None or value.name not in names.aliases or array.ndim < 2:
        return None
    parameter = names.aliases[str(value.name)]
    groups = int(attribute(node, "group", 1))
    axis = int(node.op_type == "ConvTranspose" and groups == 1)
    path = names.path(node, parameter)
    port = _add_port(graph, number, value)
    node.replace_input_with(index, port)
    return Layer(path, port, array.astype(np.float32), axis, groups, parameter, ternary.get(parameter))


def _feeds_matmul(node: ir.Node) -> bool:
    users = node.outputs[0].uses() if node.op_type == "Transpose" else ()
    return len(users) == 1 and all(user.op_type == "MatMul" and index == 1 for user, index in users)


def _add_port(graph: ir.Graph, number: int, like: ir.Value) -> ir.Value:
    port = ir.Value(name=f"weight_port_{number}", shape=like.shape, type=like.type)
    graph.inputs.append(port)
    return port


def _cut_anonymous(network: Network, names: _Names, ternary: Mapping[str, TernaryTensor]) -> None:
    """Find the products with folded constants (``x @ self.matrix``, slices of a parameter) and give them ports too.

    A weight that a layer holds as inputs by outputs, and slices of a layer's weight along its outputs, such as those of
    queries, keys and values, are known by their values; anything else may be ternary by value.
    """
    graph = network.graph
    for node in list(graph):
        if node.op_type not in ("Gemm", "MatMul"):
            continue
        value = node.inputs[1]
        found = constant(value)
        if value is None or found is None or found.ndim != 2 or found.dtype != np.float32:
            continue
        array = found.astype(np.float32)
        scope, parameter = module_path(node), str(value.name)
        if parameter in names.aliases:
            scope = names.path(node, names.aliases[parameter])
        path = scope or node.op_type.lower()
        if node.op_type == "MatMul" or not attribute(node, "transB", 0):
            array = array.T.copy()
            like = ir.Value(name="like", shape=ir.Shape(array.shape), type=value.type)
            port = _add_port(graph, len(network.layers), like)
            if node.op_type == "Gemm":
                node.attributes["transB"] = ir.AttrInt64("transB", 1)
                node.replace_input_with(1, port)
            else:
                transpose = ir.node(
                    "Transpose", [port], attributes={"perm": [1, 0]}, metadata_props=node.metadata_props
                )
                node.prepend(transpose)
                transpose.outputs[0].name = f"{port.name}_transposed"
                node.replace_input_with(1, transpose.outputs[0])
        else:
            port = _add_port(graph, len(network.layers), value)
            node.replace_input_with(1, port)
        own = rows_of(ternary[scope], array) if scope in ternary else None
        network.layers.append(Layer(path, port, array, 0, 1, parameter, own or from_values(torch.from_numpy(array), 0)))


_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")


def _settle(graph: ir.Graph, layer: Layer) -> bool:
    """Whether the weight still has its one product after folding; if not, what is left of it becomes a constant."""
    users = layer.port.consumers()
    if len(users) == 1 and users[0].op_type in ("Transpose", "Concat"):
        users = users[0].outputs[0].consumers()
    if len(users) == 1 and users[0].op_type in _PRODUCTS:
        return True
    if layer.port.uses():
        layer.port.replace_all_uses_with(add_constant(graph, layer.parameter, layer.weight))
    graph.inputs.remove(layer.port)
    return False


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Keep nn.TransformerEncoderLayer from its one fused kernel, which ONNX does not have."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch.onnx says about torchvision, which is not needed, and about its own deprecations."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")

    def keep(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        logger.removeFilter(keep)
