"""Small networks of one recurrent operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Case:
    """A recurrent operator over ``[steps, batch, inputs]``.

    ``kind`` says what the weights are: ``ternary``, ``levels`` (two of them), ``int8``, ``float``; ``states`` whether
    the first ones are inputs of the network; ``results`` which outputs there are.
    """

    op: str
    steps: int = 3
    batch: int = 2
    inputs: int = 8
    hidden: int = 8
    direction: str = "forward"
    kind: str = "ternary"
    states: bool = False
    results: tuple[bool, bool, bool] = (True, True, True)
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1


def weight(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of a weight ``[directions, outputs, inputs]``."""
    values = rng.normal(size=shape)
    scale = rng.uniform(0.2, 0.5, (*shape[:2], 1))
    if kind == "ternary":
        values = np.sign(values) * (np.abs(values) > 0.8) * scale
    elif kind == "levels":
        values = np.where(values > 0.8, scale, np.where(values < -0.5, -0.7 * scale, 0.0))
    elif kind == "int8":
        values = np.rint(np.clip(values, -3, 3) * 42) * scale / 100
    return values.astype(np.float32)


def recurrent(case: Case, seed: int = 0) -> onnx.ModelProto:
    """The network of a case: inputs ``x``, and ``h``, ``c`` where the first states are given."""
    rng, count, gates = np.random.default_rng(seed), case.directions, GATES[case.op]
    rows = gates * case.hidden
    arrays = {
        "W": weight(rng, case.kind, (count, rows, case.inputs)),
        "R": weight(rng, case.kind, (count, rows, case.hidden)),
        "B": (0.3 * rng.normal(size=(count, 2 * rows))).astype(np.float32),
    }
    state = [count, case.batch, case.hidden]
    sizes = {"x": [case.steps, case.batch, case.inputs]}
    if case.states:
        sizes |= {"h": state} | ({"c": state} if case.op == "LSTM" else {})
    names = ["y", "last_h", "last_c"][: 3 if case.op == "LSTM" else 2]
    outputs = [name if there else "" for name, there in zip(names, case.results, strict=False)]
    shapes = {"y": [case.steps, *state], "last_h": state, "last_c": state}
    read = ["x", *arrays, *(["", *list(sizes)[1:]] if case.states else [])]
    node = helper.make_node(
        case.op, read, outputs, name="layer", hidden_size=case.hidden, direction=case.direction, **case.attrs
    )

    def info(name: str, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        "recurrent",
        [info(name, shape) for name, shape in sizes.items()],
        [info(name, shapes[name]) for name in outputs if name],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
