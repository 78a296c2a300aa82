"""The network between two passes: an onnx_ir model and the layers that have weights."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tern_lightning.ternary_tensor import TernaryTensor

SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass
class Layer:
    """One use of a weight by a Conv, ConvTranspose, Gemm, MatMul or recurrent node.

    Attributes:
        path: Module path, such as ``layer1.0.conv1``.
        port: The graph input that stands in for the weight until it is written, with the weight's torch shape.
        weight: float32 weight in torch's layout.
        axis: Axis of the output channels in ``weight``.
        groups: Groups of a convolution.
        ternary: The ternary form of the weight, or None for a dense one.
        parameter: Name of the module's parameter; equal for layers that share one.
        title: What the node shall be called where it has several weights; else it is called as the layer.
    """

    path: str
    port: ir.Value
    weight: NDArray[np.float32]
    axis: int
    groups: int
    parameter: str
    ternary: TernaryTensor | None = None
    title: str | None = None

    @property
    def node(self) -> ir.Node:
        """The node that multiplies by the weight."""
        (user,) = self.port.consumers()
        if user.op_type in ("Transpose", "Concat"):
            (user,) = user.outputs[0].consumers()
        return user


@dataclass
class Network:
    """What the passes hand on.

    Attributes:
        model: The graph; weights are the ports of ``layers``.
        layers: Layers with weights, in the order of execution.
    """

    model: ir.Model
    layers: list[Layer] = field(default_factory=list)

    @property
    def graph(self) -> ir.Graph:
        """The main graph."""
        return self.model.graph


def module_path(node: ir.Node) -> str:
    """Return the path of the module that a traced node belongs to, empty for the root."""
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "['', '']"))
    return scopes[-2] if len(scopes) > 1 else ""


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Return the array of an initializer, None for anything that is computed or fed."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def add_constant(graph: ir.Graph, name: str, array: NDArray[np.generic] | ir.TensorProtocol) -> ir.Value:
    """Register ``array`` as an initializer under a name that is made unique, and return its value."""
    tensor = ir.tensor(array) if isinstance(array, np.ndarray | np.generic) else array
    tensor.name = unique(name, graph.initializers)
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(np_shape(tensor)), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def np_shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Return the sizes of a tensor, which a constant always has."""
    return tuple(int(size) for size in tensor.shape)  # type: ignore[arg-type]


def add_node(
    before: ir.Node, op_type: str, inputs: Sequence[ir.Value], name: str, output: str, **attributes: int
) -> ir.Value:
    """Insert a node before another one and return its output."""
    node = ir.node(op_type, inputs, attributes=attributes, name=name)
    before.prepend(node)
    node.outputs[0].name = output
    return node.outputs[0]


def attribute(node: ir.Node, name: str, default: float) -> float:
    """Return a numeric attribute of a node."""
    return node.attributes[name].value if name in node.attributes else default


def join(path: str, name: str) -> str:
    """Return the dotted name of a tensor of the layer at ``path``, which is empty for the root."""
    return f"{path}.{name}" if path else name


def unique(name: str, taken: object) -> str:
    """Return ``name``, with a number appended where ``taken`` (a container of names) has it already."""
    candidate, number = name, 1
    while candidate in taken:  # type: ignore[operator]
        candidate, number = f"{name}_{number}", number + 1
    return candidate
