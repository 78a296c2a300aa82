"""The graph's nodes and who reads what."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_schedules.ir.graph import (
    Clip,
    DenseWeight,
    Fused,
    GlobalPool,
    Graph,
    Linear,
    Node,
    Pool,
    Windowed,
    channel_shape,
)
from tvm_schedules.ir.layout import Window


@pytest.mark.parametrize("kind", [Fused, Windowed, Linear, Pool, GlobalPool])
def test_a_fused_node_changes_nothing_unless_told(kind: type[Fused]) -> None:
    node = kind("name", "op", ["x"], ["y"])
    assert (node.scale.tolist(), node.bias.tolist(), node.residual, node.fused) == ([1], [0], None, [])
    assert node.clip == Clip() == Clip(-np.inf, np.inf)
    if isinstance(node, Windowed | Pool):
        assert node.window == Window((1, 1, 1))
        assert node.window.output((3, 4, 5)) == (3, 4, 5)
    if isinstance(node, Pool):
        assert (node.kind, node.include_pad) == ("max", False)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_dense_weights(axis: int) -> None:
    values = np.arange(24, dtype=np.int8).reshape(2, 3, 4)
    scale = np.arange(1, values.shape[axis] + 1).astype(np.float32)
    found = DenseWeight(values, scale, axis).dequantize()
    assert found.dtype == np.float32
    for index in np.ndindex(*values.shape):
        assert found[index] == values[index] * scale[index[axis]]


def test_readers_and_writers() -> None:
    first = Node("first", "Split", ["x"], ["a", "b"])
    second = Node("second", "Add", ["a", "a"], ["c"])
    third = Node("third", "Mul", ["a", "", "c"], ["d", ""])
    graph = Graph("net", [first, second, third], {}, {}, ["x"], ["c"])
    assert graph.consumers() == {"x": [first], "a": [second, third], "c": [third]}
    assert graph.producers() == {"a": first, "b": first, "c": second, "d": third}
    graph.prune()
    assert graph.nodes == [first, second]


@pytest.mark.parametrize(
    ("shape", "dims"),
    [((1, 8, 5), (1, 1, 5)), ((1, 8, 4, 5), (1, 4, 5)), ((1, 8, 3, 4, 5), (3, 4, 5)), ((1, 8), (1, 1, 1))],
)
def test_spatial_dimensions(shape: tuple[int, ...], dims: tuple[int, int, int]) -> None:
    assert channel_shape(shape) == dims
