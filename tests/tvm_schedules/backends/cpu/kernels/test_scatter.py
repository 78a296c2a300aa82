"""Scatters from inputs to outputs against numpy: every axis, transposed tensors, indices that point nowhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.properties import examples
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Runner
from tvm_schedules.targets.registry import resolve

INTEGER = TensorProto.INT64


def info(name: str, shape: tuple[int, ...], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes: list[onnx.NodeProto], shapes: dict[str, tuple[int, ...]], out: tuple[int, ...]) -> onnx.ModelProto:
    """A network of ``data``, ``indices`` and ``updates``."""
    kinds = {name: INTEGER if name == "indices" else TensorProto.FLOAT for name in shapes}
    graph = helper.make_graph(
        nodes, "scatter", [info(name, shape, kinds[name]) for name, shape in shapes.items()], [info("out", out)]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@st.composite
def elements(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    axis = draw(st.integers(0, len(shape) - 1))
    sizes = [draw(st.integers(1, 6 if i == axis else size)) for i, size in enumerate(shape)]
    return shape, tuple(sizes), axis


@examples(15)
@given(elements())
def test_elements(case: tuple[tuple[int, ...], tuple[int, ...], int]) -> None:
    shape, sizes, axis = case
    node = helper.make_node("ScatterElements", ["data", "indices", "updates"], ["out"], axis=axis)
    run = Runner(model([node], {"data": shape, "indices": sizes, "updates": sizes}, shape))
    assert [out.in_place for out in run.plan.outputs] == ["data"]
    rng = np.random.default_rng(0)
    data, updates = rng.normal(size=shape).astype(np.float32), rng.normal(size=sizes).astype(np.float32)
    indices = rng.integers(-shape[axis] - 2, shape[axis] + 2, sizes)  # some of them point nowhere
    wanted = data.copy()
    for place in np.ndindex(*sizes):
        index = indices[place]
        if -shape[axis] <= index < shape[axis]:
            wanted[(*place[:axis], index, *place[axis + 1 :])] = updates[place]
    np.testing.assert_array_equal(run(data, indices, updates)[0], wanted)


@pytest.mark.parametrize("perm", [None, (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_slices_and_transposed_tensors(perm: tuple[int, ...] | None, depth: int) -> None:
    shape = (3, 4, 5)
    seen = shape if perm is None else tuple(shape[axis] for axis in perm)
    sizes = (2, *seen[depth:])
    nodes = [helper.make_node("ScatterND", ["data", "indices", "updates"], ["out"])]
    if perm is not None:
        nodes = [
            helper.make_node("Transpose", ["data"], ["turned"], perm=perm),
            helper.make_node("ScatterND", ["turned", "indices", "updates"], ["changed"]),
            helper.make_node("Transpose", ["changed"], ["out"], perm=np.argsort(perm).tolist()),
        ]
    run = Runner(model(nodes, {"data": shape, "indices": (2, depth), "updates": sizes}, shape))
    assert [step.kernel for step in run.plan.steps] == ["repack", "scatter"]
    rng = np.random.default_rng(1)
    data, updates = rng.normal(size=shape).astype(np.float32), rng.normal(size=sizes).astype(np.float32)
    for indices in (rng.integers(0, min(seen), (2, depth)), np.full((2, depth), -1), np.full((2, depth), 9)):
        wanted = (data if perm is None else data.transpose(perm)).copy()
        for row, update in zip(indices, updates, strict=True):
            if (row < 9).all():
                wanted[tuple(row)] = update
        expected = wanted if perm is None else wanted.transpose(np.argsort(perm))
        np.testing.assert_array_equal(run(data, indices, updates)[0], expected)


def test_constant_indices() -> None:
    node = helper.make_node("ScatterND", ["data", "indices", "updates"], ["out"])
    net = model([node], {"data": (4, 2), "updates": (1, 2)}, (4, 2))
    net.graph.initializer.append(numpy_helper.from_array(np.int64([[2]]), "indices"))
    run = Runner(net)
    data = np.arange(8, dtype=np.float32).reshape(4, 2)
    assert run(data, np.float32([[9, 9]]))[0].tolist() == [[0, 1], [2, 3], [9, 9], [6, 7]]


def test_not_where_something_else_reads_the_input() -> None:
    nodes = [
        helper.make_node("ScatterND", ["data", "indices", "updates"], ["changed"]),
        helper.make_node("Add", ["changed", "data"], ["out"]),
    ]
    read = model(nodes, {"data": (4, 2), "indices": (1, 1), "updates": (1, 2)}, (4, 2))
    read.graph.output.append(info("changed", (4, 2)))
    plan = compile_model(read, resolve("host")).plan
    assert [out.in_place for out in plan.outputs] == [None, None]
    added = model([helper.make_node("ScatterND", ["data", "indices", "updates"], ["out"], reduction="add")],
                  {"data": (4, 2), "indices": (1, 1), "updates": (1, 2)}, (4, 2))  # fmt: skip
    assert compile_model(added, resolve("host")).plan.outputs[0].in_place is None
