"""The graph between an ONNX file and the kernels: values, ONNX nodes, and fused nodes with kernels of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tvm_schedules.ir.layout import Triple, Window
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.ir.view import NOWHERE, View

__all__ = [
    "Attention",
    "Clip",
    "DenseWeight",
    "GlobalPool",
    "Graph",
    "Linear",
    "Node",
    "Pool",
    "Quant",
    "Recurrent",
    "Scatter",
    "Value",
    "Windowed",
]


@dataclass(frozen=True)
class Quant:
    """An 8-bit value ``q`` stands for ``(q - zero_point) * scale``; no ``q`` is larger than ``top``."""

    scale: float
    zero_point: int
    top: int = 255


@dataclass(frozen=True)
class Value:
    """A tensor of the graph. ``quant`` is set for 8-bit tensors that stand for real numbers."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    quant: Quant | None = None


@dataclass(frozen=True)
class DenseWeight:
    """A weight that is not ternary: ``values * scale`` with one scale a channel; ``values`` is int8 or float32."""

    values: np.ndarray
    scale: np.ndarray
    channel_axis: int = 0

    def dequantize(self) -> np.ndarray:
        """The float32 weight."""
        shape = [1] * self.values.ndim
        shape[self.channel_axis] = -1
        return self.values.astype(np.float32) * self.scale.reshape(shape)


Weight = TernaryTensor | DenseWeight


@dataclass(frozen=True)
class Clip:
    """Bounds of an activation function, in real units."""

    low: float = float("-inf")
    high: float = float("inf")


@dataclass
class Node:
    """An ONNX operator as it stands in the file.

    ``origin`` says of which module it is, where the file does, for people.
    """

    name: str
    op: str
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    origin: str = field(default="", compare=False, repr=False)


@dataclass
class Fused(Node):
    """A node with a kernel and an epilogue: ``y = clip(acc * scale + bias + residual)``, quantized where the output is.

    ``inputs[0]`` is the data; ``residual`` repeats the name of another input. An ``activation``, a function of
    :mod:`tvm_schedules.passes.activations`, comes after the bounds: ``tail`` are the nodes that it was made of, and the
    QuantizeLinear behind it, which read ``early``.
    """

    scale: np.ndarray = field(default_factory=lambda: np.ones(1, np.float32))
    bias: np.ndarray = field(default_factory=lambda: np.zeros(1, np.float32))
    residual: str | None = None
    clip: Clip = Clip()
    fused: list[str] = field(default_factory=list)
    activation: str | None = None
    tail: list[Node] = field(default_factory=list)
    early: str = ""


@dataclass
class Windowed(Fused):
    """A convolution of any dimension with a constant weight ``[O, C / groups, ...]``."""

    window: Window = field(default_factory=lambda: Window((1, 1, 1)))
    weight: Weight | None = None


@dataclass
class Linear(Fused):
    """``x [..., K]`` times a constant weight ``[O, K]``."""

    weight: Weight | None = None


@dataclass
class Pool(Fused):
    """Maximum or average over a window; a window of one pixel copies (elementwise addition, clipping, requantizing).

    ``gate`` repeats the name of another input, ``[N, C, 1, ...]``: what the planes of a window of one pixel are
    multiplied by, before everything else. ``tail`` are then all nodes that this one was made of.
    """

    window: Window = field(default_factory=lambda: Window((1, 1, 1)))
    kind: Literal["max", "average"] = "max"
    include_pad: bool = False
    gate: str | None = None


@dataclass
class GlobalPool(Fused):
    """Average over all pixels."""


@dataclass
class Recurrent(Fused):
    """The steps of an LSTM, GRU or RNN behind the product with its input, which is a :class:`Linear` of all steps.

    ``inputs`` are, for every direction, what that made, ``[T, B, gates * H]``; then the first hidden state and the
    first cell state, ``[directions, B, H]`` or ``""`` for zeros. ``outputs`` are all hidden states ``[T, directions, B,
    H]``, the last ones and the last cell states ``[directions, B, H]``, or ``""`` where nobody reads them. The order of
    gates is ONNX': input, output, forget, cell; or update, reset, hidden.

    Attributes:
        weights: Of the hidden state, ``[gates * H, H]`` for every direction.
        reverse: Which directions begin with the last step.
        relu: Whether an RNN has ``relu`` in the place of ``tanh``.
        late_reset: Whether a GRU multiplies by the reset gate behind its matrix, as PyTorch does, not before it.
        hidden_bias: Of a GRU, what is added behind that matrix, ``[directions, H]``.
    """

    weights: tuple[Weight, ...] = ()
    reverse: tuple[bool, ...] = (False,)
    relu: bool = False
    late_reset: bool = True
    hidden_bias: np.ndarray = field(default_factory=lambda: np.zeros((1, 1), np.float32))

    @property
    def gates(self) -> int:
        """Products with the hidden state: 4 of an LSTM, 3 of a GRU, 1 of an RNN."""
        return {"LSTM": 4, "GRU": 3}.get(self.op, 1)


@dataclass
class Scatter(Fused):
    """Elements of an output overwritten where it lies: it is a copy of an input by then.

    ``inputs`` are indices and updates, as ONNX has them.

    Attributes:
        axis: Of ScatterElements, the axis that indices are for; None for ScatterND.
        shape: Of the tensor as the operator sees it.
        strides: Elements from one index to the next in every axis of that: a transposed tensor is not moved.
    """

    axis: int | None = None
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


@dataclass
class Attention(Fused):
    """``softmax(factor * q k^T + masks) v`` for many pairs of matrices, read and written where they lie in memory.

    ``inputs`` are three tensors, which may be the same one, and the masks; ``q``, ``k``, ``v``, ``masks`` and ``out``
    say where in them, and in the output, the matrices lie: ``[..., S, D]``, ``[..., T, D]``, ``[..., T, Dv]``,
    ``[..., S, T]`` and ``[..., S, Dv]``, with the same leading axes. A mask is added to the scores, or with True in
    ``limits`` it is the most that they may be; masks work one after another. With ``empty`` the results of rows whose
    scores are all minus infinity are zeros, and NaN without it.
    """

    factor: float = 1.0
    q: View = NOWHERE
    k: View = NOWHERE
    v: View = NOWHERE
    masks: tuple[View, ...] = ()
    limits: tuple[bool, ...] = ()
    empty: bool = False
    out: View = NOWHERE


@dataclass
class Graph:
    """A network: nodes in execution order, values by name, constants by name."""

    name: str
    nodes: list[Node]
    values: dict[str, Value]
    constants: dict[str, np.ndarray]
    inputs: list[str]
    outputs: list[str]
    weights: dict[str, Weight] = field(default_factory=dict)
    opset: int = 25

    def consumers(self) -> dict[str, list[Node]]:
        """Who reads each value."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    readers.setdefault(name, []).append(node)
        return readers

    def producers(self) -> dict[str, Node]:
        """Who writes each value."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def prune(self) -> None:
        """Drops nodes whose outputs nobody reads."""
        needed = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if any(name in needed for name in node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        self.nodes = kept[::-1]


def channel_shape(shape: tuple[int, ...]) -> Triple:
    """The last dimensions of ``[N, C, ...]`` as depth, height, width.

    >>> channel_shape((1, 8, 5))
    (1, 1, 5)
    """
    dims = shape[2:]
    full = (1,) * (3 - len(dims)) + tuple(dims)
    return full[0], full[1], full[2]
