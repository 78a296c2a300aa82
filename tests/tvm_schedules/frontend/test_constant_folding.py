"""Small files that ask for a lot: what is computed from constants is bounded before anything computes it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvm_schedules
from tests.tvm_schedules.nets import Runner, run_onnx
from tvm_schedules.errors import ModelError, UnsupportedOperatorError
from tvm_schedules.frontend import onnx_model as onnxtools
from tvm_schedules.frontend.constant_folding import FREE, Budget, evaluate, infer, read_by
from tvm_schedules.frontend.onnx_reader import read

LARGE = 1 << 28
OPSET = 18
node = helper.make_node


def model(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: tuple[int, ...] = (1,), out: Any = (1,)
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def summed(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """``x`` plus the sum of the last node's result ``c``."""
    tail = [node("ReduceSum", ["c"], ["s"], keepdims=0), node("Add", ["x", "s"], ["y"])]
    return model([*nodes, *tail], constants)


def loop() -> onnx.ModelProto:
    infos = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("i", TensorProto.INT64, ()), ("go", TensorProto.BOOL, ()), ("a", TensorProto.FLOAT, (1,)),
            ("on", TensorProto.BOOL, ()), ("b", TensorProto.FLOAT, (1,)),
        )
    ]  # fmt: skip
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["a", "a"], ["b"])], "b", infos[:3], infos[3:]
    )
    return summed(node("Loop", ["n", "t", "o"], ["c"], body=body), n=np.int64(10**9), t=True, o=np.float32([1]))


def doubled(times: int) -> onnx.ModelProto:
    """A vector of integers that is joined to itself; ONNX' own inference would follow its numbers."""
    start = node("ConstantOfShape", ["n"], ["c0"], value=numpy_helper.from_array(np.int64([3])))
    nodes = [node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(times)]
    return summed(start, *nodes, node("Cast", [f"c{times}"], ["c"], to=1), n=np.int64([1000]))


one, many = np.float32([1]), np.int64([LARGE])
BOMBS = {
    "ConstantOfShape": summed(node("ConstantOfShape", ["n"], ["c"], name="bomb"), n=many),
    "ConstantOfShape of a computed shape": summed(
        node("Exp", ["e"], ["f"]), node("Cast", ["f"], ["n"], to=7), node("ConstantOfShape", ["n"], ["c"], name="bomb"),
        e=np.float32([19.4]),
    ),
    "Range": summed(
        node("Range", ["a", "b", "d"], ["c"], name="bomb"), a=np.float32(0), b=np.float32(LARGE), d=np.float32(1)
    ),
    "Expand": summed(node("Expand", ["o", "n"], ["c"], name="bomb"), o=one, n=many),
    "Tile": summed(node("Tile", ["o", "n"], ["c"], name="bomb"), o=one, n=many),
    "Pad": summed(node("Pad", ["o", "n"], ["c"], name="bomb"), o=one, n=np.int64([0, LARGE])),
    "Resize": summed(
        node("Resize", ["o", "", "k"], ["c"], name="bomb"), o=np.ones((1, 1, 2, 2), np.float32),
        k=np.float32([1, 1, 9e3, 9e3]),
    ),
    "OneHot": summed(
        node("OneHot", ["a", "n", "v"], ["c"], name="bomb"), a=np.int64([1]), n=np.int64(LARGE), v=np.float32([0, 1])
    ),
    "Add": summed(
        node("Add", ["a", "b"], ["ab"]), node("Add", ["ab", "d"], ["c"], name="bomb"),
        a=np.ones((1, 1, 700), np.float32), b=np.ones((1, 700, 1), np.float32), d=np.ones((700, 1, 1), np.float32),
    ),
    "Concat": doubled(20),
    "Loop": loop(),
    "computed from an input": model(
        [node("Expand", ["x", "n"], ["c"]), node("ReduceSum", ["c"], ["s"]), node("Add", ["x", "s"], ["y"])],
        {"n": np.int64([1 << 30])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_is_refused_before_memory_is_taken(case: str, tmp_path: Any) -> None:
    bomb = BOMBS[case]
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=r"of .* elements|more than .* elements|is a loop") as raised:
            tvm_schedules.build(bomb, tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 << 20
    if any(n.name == "bomb" for n in bomb.graph.node):
        assert "'bomb'" in str(raised.value)


def test_a_loop_is_named() -> None:
    with pytest.raises(UnsupportedOperatorError, match="Loop"):
        read(loop())


def test_what_is_small_is_folded_and_right() -> None:
    shape = (2, 3, 5)
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "last"], ["w"]),
        node("Cast", ["w"], ["f"], to=1),
        node("Range", ["zero", "f", "unit"], ["r"]),
        node("Tile", ["r", "six"], ["t"]),
        node("Slice", ["s", "zeros", "two"], ["front"]),
        node("Concat", ["front", "minus"], ["to"], axis=0),
        node("Reshape", ["t", "to"], ["c"]),
        node("Add", ["x", "c"], ["y"]),
    ]
    constants = {
        "last": np.int64(2), "zero": np.float32(0), "unit": np.float32(1), "six": np.int64([6]),
        "zeros": np.int64([0]), "two": np.int64([2]), "minus": np.int64([-1]),
    }  # fmt: skip
    made = model(nodes, constants, shape, ("a", "b", "c"))
    graph = read(made)
    assert [n.op for n in graph.nodes] == ["Add"]
    np.testing.assert_array_equal(graph.constants["c"], np.tile(np.arange(5, dtype=np.float32), 6).reshape(shape))
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(Runner(made)(x)[0], run_onnx(made, x)[0])


def test_budget_grows_with_the_file_and_ends() -> None:
    budget = Budget(1000)
    assert budget.take(FREE + 4000)
    assert not budget.take(1)
    assert evaluate(node("Neg", ["a"], ["b"]), {"a": np.ones(3)}, {"": OPSET}, Budget(-FREE // 4)) is None
    (found,) = evaluate(node("Neg", ["a"], ["b"]), {"a": np.ones(3)}, {"": OPSET}, 3) or ()
    np.testing.assert_array_equal(found, -np.ones(3))
    assert evaluate(node("Neg", ["a"], ["b"]), {"a": np.ones(3)}, {"": OPSET}, 2) is None


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random_numbers_are_no_constants(op: str) -> None:
    assert evaluate(node(op, ["a"], ["b"]), {"a": np.ones(3, np.float32)}, {"": OPSET}, 100) is None


def test_weights_of_helpers_are_bounded() -> None:
    """What the verifier and the reports fold for themselves."""
    wide, tall = np.ones((1, 30_000), np.float32), np.ones((30_000, 1), np.float32)
    nodes = [
        node("Add", ["a", "b"], ["c"]),
        node("DequantizeLinear", ["q", "s"], ["d"], axis=0),
        node("Add", ["x", "x"], ["y"]),
    ]
    made = model(nodes, {"a": wide, "b": tall, "q": np.ones((1, 30_000), np.int8), "s": np.ones(30_000, np.float32)})
    assert {"c", "d"}.isdisjoint(onnxtools.constant_arrays(made))


def test_names_that_a_subgraph_takes_from_outside() -> None:
    """Read by a node in it, or given on as its output; what it makes itself is not among them."""
    inner = helper.make_graph(
        [helper.make_node("Relu", ["outside"], ["made"])],
        "branch",
        [],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("made", "handed_on")],
    )
    node = helper.make_node("If", ["condition"], ["a", "b"], then_branch=inner, else_branch=inner)
    assert read_by(node) == ["condition", "outside", "handed_on"]


@pytest.mark.parametrize(("width", "shapes"), [(3, {"y": (2, 5)}), (4, {})])
def test_a_node_that_does_not_fit_its_inputs_has_no_known_types(width: int, shapes: dict[str, tuple[int, ...]]) -> None:
    kinds = {
        name: helper.make_tensor_type_proto(TensorProto.FLOAT, shape)
        for name, shape in (("a", (2, width)), ("b", (3, 5)))
    }
    found = infer(helper.make_node("MatMul", ["a", "b"], ["y"]), kinds, {}, {"": 18})
    assert {name: tuple(dim.dim_value for dim in kind.tensor_type.shape.dim) for name, kind in found.items()} == shapes
