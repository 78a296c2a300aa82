"""``If`` nodes whose condition is known: the nodes of the branch that is taken, in place of the node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["taken"]


def taken(node: Any, condition: bool) -> tuple[list[Any], list[Any]]:
    """The nodes of a branch, with names that no other tensor of the network has.

    Args:
        node: The ``onnx.NodeProto`` of the ``If``.
        condition: Its condition.

    Returns:
        Nodes that make the node's outputs, and the branch's constants as ``onnx.TensorProto``.
    """
    from onnx import helper

    wanted = "then_branch" if condition else "else_branch"
    graph = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
    inner = {name for one in graph.node for name in one.output} | {tensor.name for tensor in graph.initializer}
    names = {name: f"{node.output[0]}/{name}" for name in inner if name}
    made = {name for one in graph.node for name in one.output}
    same = []
    for value, name in zip(graph.output, node.output, strict=True):
        if value.name in made and names[value.name] == f"{node.output[0]}/{value.name}":
            names[value.name] = name
        else:  # a tensor from outside, a constant, or one that is two outputs
            same.append((value.name, name))
    nodes = [_renamed(one, names) for one in graph.node]
    nodes += [helper.make_node("Identity", [names.get(source, source)], [name], name=name) for source, name in same]
    constants = []
    for tensor in graph.initializer:
        copy = type(tensor)()
        copy.CopyFrom(tensor)
        copy.name = names[tensor.name]
        constants.append(copy)
    return nodes, constants


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    """A copy of a node with other names of tensors, also in its own subgraphs."""
    copy = type(node)()
    copy.CopyFrom(node)
    _rename(copy, names)
    return copy


def _rename(node: Any, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            for inner in graph.node:
                _rename(inner, names)
            for value in graph.output:
                value.name = names.get(value.name, value.name)
