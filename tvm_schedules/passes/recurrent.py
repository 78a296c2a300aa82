"""Splits LSTM, GRU and RNN: a linear layer over the inputs of all steps, and the steps themselves behind it.

The product with the input does not wait for the step before, so it is a layer like others, of as many rows as there are
steps, with the kernels that those have. What is left for each step is the product with the hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvm_schedules.errors import UnsupportedOperatorError
from tvm_schedules.ir.graph import DenseWeight, Graph, Linear, Node, Recurrent, Value, Weight
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.passes.quantized import resolve

__all__ = ["run"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def run(graph: Graph) -> None:
    """Replaces recurrent operators, in place.

    Raises:
        UnsupportedOperatorError: One has an attribute or input that its kernel does not know; names the node.
    """
    producers = graph.producers()
    needed = set(graph.outputs).union(*(node.inputs for node in graph.nodes))
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += _split(graph, producers, node, needed) if node.op in _GATES else [node]
    graph.nodes = nodes


def _refuse(node: Node, why: str) -> UnsupportedOperatorError:
    return UnsupportedOperatorError(f"node {node.name!r}: {node.op} cannot be compiled: {why}")


@dataclass(frozen=True)
class _Operator:
    """What the file says about a node.

    Attributes:
        node: The node.
        hidden: Size of the hidden state.
        inputs: Names of X, W, R, B, the lengths, the first states and the peepholes, ``""`` where there is none.
        reverse: Which directions begin with the last step.
        relu: See :class:`~tvm_schedules.ir.graph.Recurrent`.
    """

    node: Node
    hidden: int
    inputs: tuple[str, ...]
    reverse: tuple[bool, ...]
    relu: bool


def _read(graph: Graph, node: Node) -> _Operator:
    """The node's attributes and inputs, as far as the kernel knows them."""
    attrs = node.attrs
    reverse = _DIRECTIONS.get(attrs.get("direction", "forward"))
    if reverse is None:
        raise _refuse(node, f"direction is {attrs['direction']!r}")
    if attrs.get("layout", 0):
        raise _refuse(node, "layout=1 (the batch first) is not supported; transpose the sequence around the node")
    if attrs.get("clip"):
        raise _refuse(node, "clip is not supported")
    if attrs.get("input_forget", 0):
        raise _refuse(node, "input_forget is not supported")
    given = [name.decode() if isinstance(name, bytes) else str(name) for name in attrs.get("activations", ())]
    usual = _USUAL[node.op] * len(reverse)
    relu = node.op == "RNN" and given == ["Relu"] * len(reverse)
    if given and given != usual and not relu:
        raise _refuse(node, f"activations are {given}, which must be {usual}")
    inputs = tuple([*node.inputs, *[""] * 8][:8])
    if inputs[4]:
        raise _refuse(node, "sequence lengths are not supported; give it sequences of one length")
    if inputs[7]:
        raise _refuse(node, "peepholes are not supported")
    for name in inputs[1:4]:
        if name and name not in graph.constants and name not in graph.weights:
            raise _refuse(node, f"its weight {name!r} is computed from an input of the network")
    hidden = graph.weights[inputs[2]] if inputs[2] in graph.weights else graph.constants[inputs[2]]
    shape = hidden.shape if not isinstance(hidden, DenseWeight) else hidden.values.shape
    return _Operator(node, int(shape[-1]), inputs, reverse, relu)


def _split(graph: Graph, producers: dict[str, Node], node: Node, needed: set[str]) -> list[Node]:
    """The nodes in the place of a recurrent operator."""
    said = _read(graph, node)
    gates, hidden, count = _GATES[node.op], said.hidden, len(said.reverse)
    sequence, given, recurrence = said.inputs[:3]
    bias = graph.constants.get(said.inputs[3], np.zeros((count, 2 * gates * hidden), np.float32)).astype(np.float32)
    own, other = np.split(bias.reshape(count, 2, gates * hidden), 2, 1)
    late, apart = own[:, 0] + other[:, 0], np.zeros((count, hidden), np.float32)
    if node.op == "GRU":
        apart = other[:, 0, -hidden:].copy()
        late[:, -hidden:] = own[:, 0, -hidden:]
    length, batch, _ = graph.values[sequence].shape if sequence in graph.values else graph.constants[sequence].shape
    if sequence not in graph.values:
        raise _refuse(node, "its sequence is a constant")
    made: list[Node] = []
    for direction in range(count):
        out = f"{node.name}.gates{direction}" if count > 1 else f"{node.name}.gates"
        while out in graph.values or out in graph.constants:  # a file may call its tensors anything
            out += "'"
        graph.values[out] = Value(out, (length, batch, gates * hidden), "float32")
        title = f"{node.name}/input{direction}" if count > 1 else f"{node.name}/input"
        ones = np.ones(gates * hidden, np.float32)
        weight = _weight(graph, given, direction)
        source = resolve(graph, producers, sequence)
        made.append(Linear(title, node.op, [source], [out], scale=ones, bias=late[direction], weight=weight))
    states = [*said.inputs[5 : 7 if node.op == "LSTM" else 6], ""][:2]
    outputs = [name if name in needed else "" for name in [*node.outputs, "", ""][:3]]
    steps = Recurrent(node.name, node.op, [*(one.outputs[0] for one in made), *states], outputs)
    steps.weights = tuple(_weight(graph, recurrence, direction) for direction in range(count))
    steps.reverse, steps.relu, steps.hidden_bias = said.reverse, said.relu, apart
    steps.late_reset = bool(node.attrs.get("linear_before_reset", 0))
    return [*made, steps]


def _weight(graph: Graph, name: str, direction: int) -> Weight:
    """The weight ``[gates * H, K]`` of a direction."""
    whole = graph.weights.get(name)
    if isinstance(whole, TernaryTensor) and whole.channel_axis == 1:
        return TernaryTensor(np.ascontiguousarray(whole.codes[:, direction]), whole.positive, whole.negative, 0)
    if isinstance(whole, DenseWeight) and whole.channel_axis == 1:
        return DenseWeight(np.ascontiguousarray(whole.values[direction]), whole.scale, 0)
    array = graph.constants[name] if whole is None else whole.dequantize()
    values = np.ascontiguousarray(array[direction].astype(np.float32))
    found = TernaryTensor.from_values(values, 0) if values.shape[1] >= 8 else None
    return found or DenseWeight(values, np.ones(len(values), np.float32), 0)
