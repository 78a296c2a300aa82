"""Activation functions behind layers, however a network writes them: recognized by their values.

Networks write GELU or SiLU as one operator or as a dozen. What follows a layer element by element is a function of one
number, and it is compared with the known ones on a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import erf, pi, sqrt
from typing import Any

import numpy as np

from tvm_schedules.ir.graph import Fused, Graph, Node, Pool

__all__ = ["KINDS", "Found", "find", "split"]

GRID = np.linspace(-9.0, 9.0, 257)
MOST_NODES = 12
"""Nodes of a function at most."""

_erf = np.vectorize(erf, otypes=[float])


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


KINDS: Mapping[str, Callable[[Any], Any]] = {
    "gelu": lambda x: x * (1 + _erf(x * sqrt(0.5))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2,
    "gelu_sigmoid": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
}
"""Functions that an epilogue can compute, by the names in :attr:`~tvm_schedules.ir.graph.Fused.activation`."""


def _clip(attrs: Mapping[str, Any], x: Any, low: Any = -np.inf, high: Any = np.inf) -> Any:
    return np.clip(x, low, high)


def _gelu(attrs: Mapping[str, Any], x: Any) -> Any:
    approximate = attrs.get("approximate", "none")
    return KINDS["gelu_tanh" if approximate in ("tanh", b"tanh") else "gelu"](x)


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "Add": lambda attrs, a, b: a + b,
    "Sub": lambda attrs, a, b: a - b,
    "Mul": lambda attrs, a, b: a * b,
    "Div": lambda attrs, a, b: a / b,
    "Pow": lambda attrs, a, b: np.asarray(a) ** b,
    "Neg": lambda attrs, a: -a,
    "Exp": lambda attrs, a: np.exp(a),
    "Erf": lambda attrs, a: _erf(a),
    "Tanh": lambda attrs, a: np.tanh(a),
    "Sigmoid": lambda attrs, a: _sigmoid(a),
    "Reciprocal": lambda attrs, a: 1 / a,
    "Clip": _clip,
    "Relu": lambda attrs, a: np.maximum(a, 0),
    "Gelu": _gelu,
    "Swish": lambda attrs, a: a * _sigmoid(attrs.get("alpha", 1.0) * a),
    "HardSwish": lambda attrs, a: KINDS["hardswish"](a),
    "HardSigmoid": lambda attrs, a: np.clip(attrs.get("alpha", 0.2) * a + attrs.get("beta", 0.5), 0, 1),
}
"""Operators that compute element by element, as functions of attributes and operands."""


@dataclass(frozen=True)
class Found:
    """An activation function in a graph.

    Attributes:
        kind: Its name in :data:`KINDS`.
        nodes: The nodes that it is made of, in execution order.
    """

    kind: str
    nodes: Sequence[Node]


def find(graph: Graph, readers: Mapping[str, Sequence[Node]], name: str) -> Found | None:
    """The known function that is all that is made of a tensor.

    Args:
        graph: The network.
        readers: Of :meth:`~tvm_schedules.ir.graph.Graph.consumers`.
        name: The tensor.
    """
    values: dict[str, Any] = {name: GRID}
    shape = graph.values[name].shape  # which numbers with more axes would change
    taken: list[Node] = []
    while len(taken) < MOST_NODES:
        after = [node for made in values for node in readers.get(made, ()) if not any(node is done for done in taken)]
        alike = (node for node in after if graph.values[node.outputs[0]].shape == shape)
        node = next((node for node in alike if _compute(graph, node, values)), None)
        if node is None:
            return None
        taken.append(node)
        inside = {id(done) for done in taken}
        open_ends = [
            made
            for made in values
            if made in graph.outputs or any(id(reader) not in inside for reader in readers.get(made, ()))
        ]
        if open_ends == [node.outputs[0]] and (kind := _kind(values[node.outputs[0]])) is not None:
            return Found(kind, taken)
    return None


def _compute(graph: Graph, node: Node, values: dict[str, Any]) -> bool:
    """Adds a node's output to the values; False where it is no function of them, element by element."""
    operator = OPERATORS.get(node.op)
    if operator is None or len(node.outputs) != 1 or node.domain not in ("", "ai.onnx"):
        return False
    operands = []
    for name in node.inputs:
        constant = graph.constants.get(name)
        if name in values:
            operands.append(values[name])
        elif constant is not None and constant.size == 1 and constant.dtype == np.float32:
            operands.append(float(constant.ravel()[0]))
        else:
            return False
    with np.errstate(all="ignore"):
        values[node.outputs[0]] = operator(node.attrs, *operands)
    return True


def _kind(values: Any) -> str | None:
    for kind, function in KINDS.items():
        if np.all(np.abs(values - function(GRID)) < 1e-5):
            return kind
    return None


def split(graph: Graph, keeps: Callable[[Fused], bool]) -> Graph:
    """A graph in which activation functions and gates are nodes again, except for those that a kernel computes.

    Args:
        graph: A fused graph; it stays as it is.
        keeps: Whether a node with an activation function or a gate has a kernel that computes it.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Pool) and node.gate and not keeps(node):
            nodes += [one for one in node.tail if all(one is not other for other in nodes)]
        elif isinstance(node, Fused) and node.activation and not keeps(node):
            plain = replace(node, activation=None, tail=[], outputs=[node.early])
            nodes += [plain, *node.tail]
        else:
            nodes.append(node)
    return replace(graph, nodes=nodes)
