"""Parts of weights: which rows of a layer's ternary weight an array is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tern_lightning.exporter.graph import add_constant, constant, join, unique
from tern_lightning.exporter.slices import rows_of, split_constants
from tern_lightning.ternary_tensor import TernaryTensor

CODES = torch.tensor([[1, 0, -1], [0, 1, 1], [1, 0, -1], [-1, -1, 0]], dtype=torch.int8)


def weight(axis: int, per_channel: bool) -> TernaryTensor:
    levels = torch.tensor([[1.0, 2.0, 3.0, 4.0]]) if per_channel else torch.tensor([[2.0]])
    codes = CODES if axis == 0 else CODES.T.contiguous()
    return TernaryTensor(codes[None], levels, levels * 2, channel_axis=axis)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("first", "last"), [(0, 4), (0, 1), (1, 3), (2, 4), (3, 4)])
def test_rows_are_found(axis: int, per_channel: bool, first: int, last: int) -> None:
    whole = weight(axis, per_channel).dequantize().numpy()
    rows = whole if axis == 0 else whole.T
    found = rows_of(weight(axis, per_channel), rows[first:last])
    assert found is not None
    assert found.channel_axis == 0
    np.testing.assert_array_equal(found.dequantize().numpy(), rows[first:last])


def test_equal_first_rows() -> None:
    """The third row is the first one again, and what follows it decides."""
    own = weight(0, False)
    rows = own.dequantize().numpy()
    found = rows_of(own, rows[2:4])
    assert found is not None
    assert found.codes.tolist() == [CODES[2:4].tolist()]


def test_other_rows() -> None:
    own = weight(0, False)
    rows = own.dequantize().numpy()
    assert rows_of(own, rows[[1, 3]]) is None
    assert rows_of(own, rows[:, :2]) is None
    assert rows_of(own, rows[:0]) is None
    assert rows_of(own, np.concatenate([rows[3:], rows[:1]])) is None
    assert rows_of(own, rows[1:3] + 1e-3) is None


def graph_with(nodes: list[ir.Node], constants: list[ir.Value]) -> ir.Graph:
    graph = ir.Graph(
        [], [node.outputs[0] for node in nodes if not node.outputs[0].uses()], nodes=nodes, opset_imports={"": 25}
    )
    for value in constants:
        graph.register_initializer(value)
    return graph


def initial(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)


@pytest.mark.parametrize("sizes", [None, [1, 3, 2]])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_split_constants(sizes: list[int] | None, axis: int | None) -> None:
    array = np.arange(36, dtype=np.float32).reshape(6, 6)
    values = [initial("w", array)] + ([] if sizes is None else [initial("sizes", np.int64(sizes))])
    attributes = {} if axis is None else {"axis": axis}
    split = ir.node("Split", values, attributes=attributes, num_outputs=3)
    for number, output in enumerate(split.outputs):
        output.name = f"part{number}"
    readers = [ir.node("Relu", [output]) for output in split.outputs]
    split_constants(graph_with([split, *readers], values))
    ends = np.cumsum([0, *(sizes or [2, 2, 2])])
    for reader, first, last in zip(readers, ends[:-1], ends[1:], strict=True):
        np.testing.assert_array_equal(
            constant(reader.inputs[0]), array[:, first:last] if axis == 1 else array[first:last]
        )


@pytest.mark.parametrize("reader", ["MatMul", "Relu", "both"])
def test_turned_constants_of_products(reader: str) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    values = [initial("w", array), initial("x", np.ones((4, 3), np.float32))]
    turn = ir.node("Transpose", values[:1], attributes={"perm": [1, 0]})
    turn.outputs[0].name = "turned"
    product = ir.node("MatMul", [values[1], turn.outputs[0]])
    other = ir.node("Relu", [turn.outputs[0]])
    nodes = {"MatMul": [product], "Relu": [other], "both": [product, other]}[reader]
    if product not in nodes:
        product.replace_input_with(1, None)
    if other not in nodes:
        other.replace_input_with(0, None)
    split_constants(graph_with([turn, *nodes], values))
    found = constant(nodes[0].inputs[-1])
    assert (found is not None) == (reader == "MatMul")
    if found is not None:
        np.testing.assert_array_equal(found, array.T)


def test_names() -> None:
    assert (join("a.b", "w"), join("", "w")) == ("a.b.w", "w")
    assert unique("a", {}) == "a"
    assert unique("a", {"a", "a_1", "a_3"}) == "a_2"
    graph = graph_with([], [])
    first, second = (add_constant(graph, "w", np.zeros(shape, np.float32)) for shape in ((2, 3), ()))
    assert (first.name, second.name) == ("w", "w_1")
    assert set(graph.initializers) == {"w", "w_1"}
    assert constant(first).shape == (2, 3)
    assert constant(None) is None
    assert constant(ir.Value(name="fed")) is None
