"""Graphs that exporters write around a network: branches that shapes decide, results that nobody reads, open sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvm_schedules
from tests.tvm_schedules.nets import Runner, run_onnx
from tvm_schedules.errors import InputError, ShapeError
from tvm_schedules.frontend import onnx_model as onnxtools
from tvm_schedules.frontend.onnx_reader import read

node, info = helper.make_node, helper.make_tensor_value_info
FLOAT, I64 = TensorProto.FLOAT, TensorProto.INT64


def model(
    nodes: list[Any], shape: Any = (2, 3), outputs: dict[str, Any] | None = None, opset: int = 18, **constants: Any
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    ends = [info(name, FLOAT, dims) for name, dims in (outputs or {"y": None}).items()]
    graph = helper.make_graph(nodes, "g", [info("x", FLOAT, shape)], ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def branch(name: str, nodes: list[Any], *outputs: str, **constants: Any) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    return helper.make_graph(nodes, name, [], [info(output, FLOAT, None) for output in outputs], tensors)


def shape_is(rows: int) -> list[Any]:
    """``c``: whether the first size of ``x`` is that."""
    value = numpy_helper.from_array(np.int64(rows))
    return [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Constant", [], ["k"], value=value),
        node("Equal", ["n", "k"], ["c"]),
    ]


@pytest.mark.parametrize("rows", [2, 5])
def test_a_branch_that_a_shape_decides_is_taken(rows: int) -> None:
    inner = branch("inner", [node("Mul", ["t", "two"], ["m"])], "m")
    outer = branch("outer", [node("Neg", ["t"], ["m"])], "m")
    nested = node("If", ["c"], ["r"], then_branch=inner, else_branch=outer)
    then = branch("then", [node("Add", ["x", "w"], ["t"]), nested], "r", "t", w=np.float32([1, 2, 3]))
    other = branch("else", [node("Identity", ["x"], ["t"])], "w", "t", w=np.float32([[7, 8, 9]] * 2))
    nodes = [*shape_is(rows), node("If", ["c"], ["y", "z"], name="choice", then_branch=then, else_branch=other)]
    made = model(nodes, outputs={"y": (None, None), "z": (None, None)}, zero=np.int64(0), two=np.float32(2))
    graph = read(made)
    assert [one.op for one in graph.nodes] == (["Add", "Mul"] if rows == 2 else ["Identity"])
    assert all(value.shape == (2, 3) for value in graph.values.values())
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for ours, theirs in zip(Runner(made)(x), run_onnx(made, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_branch_may_give_one_tensor_twice() -> None:
    then = branch("then", [node("Neg", ["x"], ["t"])], "t", "t")
    other = branch("else", [node("Abs", ["x"], ["t"]), node("Neg", ["t"], ["u"])], "t", "u")
    nodes = [*shape_is(2), node("If", ["c"], ["y", "z"], then_branch=then, else_branch=other)]
    made = model(nodes, outputs={"y": (2, 3), "z": (2, 3)}, zero=np.int64(0))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for found in Runner(made)(x):
        np.testing.assert_array_equal(found, -x)


def test_a_branch_that_the_input_decides_stays() -> None:
    nodes = [
        node("ReduceSum", ["x"], ["total"], keepdims=0),
        node("Greater", ["total", "zero"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branch("t", [node("Neg", ["x"], ["a"])], "a"),
             else_branch=branch("e", [node("Abs", ["x"], ["b"])], "b")),
    ]  # fmt: skip
    assert [one.op for one in read(model(nodes, outputs={"y": (2, 3)}, zero=np.float32(0))).nodes][-1] == "If"


def test_results_that_nobody_reads_are_no_part_of_the_graph() -> None:
    nodes = [
        node("Dropout", ["x"], ["d", "mask"]),  # whose shape inference of old operator sets does not know
        node("NonZero", ["x"], ["places"]),
        node("Neg", ["d"], ["y"]),
    ]
    graph = read(model(nodes, outputs={"y": (2, 3)}, opset=9))
    assert [(one.op, one.outputs) for one in graph.nodes] == [("Dropout", ["d"]), ("Neg", ["y"])]


def test_numbers_without_axes_are_folded_in_old_operator_sets() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["n"]),
        node("Unsqueeze", ["n"], ["u"], axes=[0]),  # which ONNX' reference implementation cannot compute
        node("Concat", ["u", "rest"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["y"]),
    ]
    graph = read(model(nodes, outputs={"y": None}, opset=11, one=np.int64(1), rest=np.int64([2])))
    assert [one.op for one in graph.nodes] == ["Reshape"]
    assert graph.values["y"].shape == (3, 2)


def test_a_shape_that_depends_on_values_names_its_node() -> None:
    nodes = [node("NonZero", ["x"], ["p"], name="finder"), node("Cast", ["p"], ["y"], to=FLOAT)]
    with pytest.raises(ShapeError, match=r"'p', output of NonZero node 'finder'.*although the inputs' are fixed"):
        read(model(nodes))


def test_negative_sizes_are_open_ones() -> None:
    made = model([node("Relu", ["x"], ["y"])], (-1, 3), {"y": (-1, 3)})
    onnxtools.fix_shapes(made, {"x": (4, 3)})
    assert read(made).values["y"].shape == (4, 3)


@pytest.mark.parametrize("value", [np.float32([[1, 2]]), np.int64([3, 4, 5]), np.array([True, False]), np.float32(7)])
def test_a_constant_is_a_result(value: np.ndarray) -> None:
    made = model([node("Relu", ["x"], ["y"]), node("Identity", ["c"], ["z"])], outputs={"y": (2, 3)}, c=value)
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    made.graph.output.append(info("z", kind, value.shape))
    x = np.float32([[1, -2, 3], [-4, 5, -6]])
    found = Runner(made)(x)
    np.testing.assert_array_equal(found[0], np.maximum(x, 0))
    assert found[1].dtype == value.dtype
    np.testing.assert_array_equal(found[1].reshape(value.shape), value)


def by_rate() -> onnx.ModelProto:
    """The negative of ``x`` at a rate of 8000, else the double."""
    branches = {
        "then_branch": branch("then", [node("Neg", ["x"], ["a"])], "a"),
        "else_branch": branch("else", [node("Add", ["x", "x"], ["b"])], "b"),
    }
    made = model([node("Equal", ["rate", "low"], ["c"]), node("If", ["c"], ["y"], **branches)], low=np.int64(8000),
                 outputs={"y": (2, 3)})  # fmt: skip
    made.graph.input.append(info("rate", I64, ()))
    return made


@pytest.mark.parametrize(("rate", "factor"), [(8000, -1), (16000, 2)])
def test_an_input_that_is_always_the_same_decides(rate: int, factor: int, tmp_path: Path) -> None:
    artifact = tvm_schedules.build(by_rate(), tmp_path / "out", constants={"rate": rate})
    assert [entry["name"] for entry in artifact.metadata["inputs"]] == ["x"]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(artifact.load()(x), factor * x)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"speed": 1}, "given for 'speed', but the model's inputs are x, rate"),
        ({"rate": 0.5}, r"input 'rate' must be int64 of shape \[\], got float64"),
        ({"x": np.zeros((3, 2), np.float32)}, r"must be float32 of shape \[2, 3\], got float32 of shape \[3, 2\]"),
    ],
)
def test_constants_that_do_not_fit_are_refused(constants: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        onnxtools.fix_inputs(by_rate(), constants)


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        (np.ones((5, 3), np.float32), True), (np.ones((1, 3)), True), (np.ones((5, 3), np.float16), True),
        (np.ones((5, 3), np.int64), True), (np.ones((5, 4), np.float32), False), (np.ones(3, np.float32), False),
        (np.ones((1, 5, 3), np.float32), False), (np.ones((5, 3), np.complex64), False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", ["batch", None, -1, 0])
def test_constants_may_have_any_open_size(value: np.ndarray, fits: bool, size: Any) -> None:
    made = model([node("Neg", ["x"], ["y"])], shape=(size, 3), outputs={"y": None})
    if not fits:
        with pytest.raises(InputError, match="the constant for input 'x' must be float32 of shape"):
            onnxtools.fix_inputs(made, {"x": value})
        assert not made.graph.initializer
        return
    onnxtools.fix_inputs(made, {"x": value})
    assert not made.graph.input
    (tensor,) = made.graph.initializer
    found = numpy_helper.to_array(tensor)
    assert (tensor.name, found.dtype) == ("x", np.float32)
    np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize(
    ("scopes", "classes", "origin"),
    [
        ("['', 'body', 'body.turn', 'cos']", "['m.Net', 'm.Body', 'torch.nn.Turn', 'aten.cos']", "Turn 'body.turn'"),
        ("['', 'relu']", "['m.Net', 'aten.relu']", "Net"),
        ("['relu']", "['aten.relu']", ""),
        ("['', 'a', 'b']", None, ""),
        ("['', 'a', 'b']", "['Net', 'not a name', 'b']", ""),
        ("['', 'a', 'b'", "['Net', 'A', 'b']", ""),
        ("3", "['Net', 'A', 'b']", ""),
    ],
)
def test_the_module_that_a_node_is_of(scopes: str, classes: str | None, origin: str) -> None:
    """As PyTorch's exporter writes it down: the last scope is the node's own, the one before it the module's."""
    neg = node("Neg", ["x"], ["y"])
    neg.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    if classes is not None:
        neg.metadata_props.add(key="pkg.torch.onnx.class_hierarchy", value=classes)
    (found,) = read(model([neg], outputs={"y": (2, 3)})).nodes
    assert found.origin == origin


def test_open_sizes_are_named_in_the_error() -> None:
    with pytest.raises(ShapeError, match=r"'x' has the open shape \[batch, 3\]"):
        read(model([node("Neg", ["x"], ["y"])], shape=("batch", 3), outputs={"y": ("batch", 3)}))


def test_scales_without_an_axis_are_those_of_columns() -> None:
    values, scale = np.arange(6, dtype=np.int8).reshape(2, 3), np.float32([1, 10, 100])
    found = onnxtools._fold(node("DequantizeLinear", ["x", "s"], ["y"]), [values, scale])
    np.testing.assert_array_equal(found, values * scale)
