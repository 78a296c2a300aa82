"""Node and tensor names that a reader of the file recognizes from the module."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from tern_lightning.exporter.graph import SCOPES, Network, add_constant, join, module_path, unique


def name_network(network: Network) -> None:
    """Name nodes, tensors, constants and outputs, each uniquely.

    A layer's node and its output carry the module's path (``layer1.0.conv1``), other nodes path and operator
    (``layer1.0/add``); a second call of one module adds ``_1``. Graph outputs are ``output_0``, ``output_1``, ...;
    inputs keep the names of the arguments of ``forward``.
    """
    graph = network.graph
    RemoveUnusedNodesPass()(network.model)
    _split_outputs(graph)
    paths = {id(layer.node): layer.title or layer.path for layer in network.layers}
    taken = {str(value.name) for value in graph.inputs} | {f"output_{i}" for i in range(len(graph.outputs))}
    taken |= set(graph.initializers)  # folded constants keep the names of the nodes that made them
    for node in graph:
        base = paths.get(id(node)) or _node_name(node)
        node.name = unique(base, taken)
        taken.add(node.name)
        for index, value in enumerate(node.outputs):
            value.name = node.name if index == 0 else f"{node.name}:{index}"
        node.metadata_props.clear()
    for index, value in enumerate(graph.outputs):
        value.name = f"output_{index}"
    _name_constants(network)


def _node_name(node: ir.Node) -> str:
    path, operator = module_path(node), node.op_type.lower()
    return f"{path}/{operator}" if path else operator


def _split_outputs(graph: ir.Graph) -> None:
    """Give every graph output a node of its own, where one tensor is returned twice or an input is returned."""
    seen: set[int] = set()
    for index, value in enumerate(graph.outputs):
        if value.producer() is None or id(value) in seen:
            node = ir.node("Identity", [value], metadata_props={SCOPES: "['', '']"})
            graph.append(node)
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            graph.outputs[index] = node.outputs[0]
        seen.add(id(graph.outputs[index]))


def _name_constants(network: Network) -> None:
    """Name biases after their layers, and constants that have no name of the module after the node that reads them."""
    graph = network.graph
    for layer in network.layers:
        node = layer.node
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and bias.is_initializer() and str(bias.name).startswith(join(layer.path, "bias_folded")):
            _rename(graph, bias, join(layer.path, "bias"))
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and str(value.name).startswith("val_"):
                _rename(graph, value, f"{node.name}.const{index}")


def _rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    assert value.const_value is not None
    fresh = add_constant(graph, name, value.const_value)
    value.replace_all_uses_with(fresh)
    del graph.initializers[str(value.name)]
