"""Every element type of the table through every format; every other type is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvm_schedules
from tests.tvm_schedules.compiling import compile_gpu
from tests.tvm_schedules.nets import run_onnx
from tvm_schedules.artifact import weights
from tvm_schedules.artifact.samples import load_samples
from tvm_schedules.backends.c.program import Program
from tvm_schedules.common.dtypes import C_TYPES, TYPES, check_type
from tvm_schedules.errors import ArtifactError, ModelError
from tvm_schedules.targets.registry import resolve

info = helper.make_tensor_value_info
ONNX = {name: helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in TYPES}
OTHERS = [
    name for name, kind in TensorProto.DataType.items() if kind not in ONNX.values() and name not in ("UNDEFINED",)
]


def array(dtype: str, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).integers(0, 3, (2, 5)) * np.float64(1.5)).astype(dtype)


def joined(dtype: str) -> onnx.ModelProto:
    """An input and a constant, one behind the other; and a copy of the input."""
    graph = helper.make_graph(
        [helper.make_node("Concat", ["x", "c"], ["y"], axis=0), helper.make_node("Reshape", ["x", "s"], ["z"])],
        "g",
        [info("x", ONNX[dtype], (2, 5))],
        [info("y", ONNX[dtype], (4, 5)), info("z", ONNX[dtype], (10,))],
        [numpy_helper.from_array(array(dtype, 1), "c"), numpy_helper.from_array(np.int64([10]), "s")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("dtype", TYPES)
def test_weights_file(dtype: str, tmp_path: Path) -> None:
    given = {"a": array(dtype), "scalar": array(dtype)[0, 1], "none": array(dtype)[:0]}
    weights.write(tmp_path / "w.npz", given)
    found, _ = weights.read(tmp_path / "w.npz")
    for name, value in given.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("value", [np.complex64([1]), np.array(["a"]), np.array([None]), np.zeros(1, "M8[s]")])
def test_weights_file_takes_no_other_type(value: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="constant 'a' has elements of type"):
        weights.write(tmp_path / "w.npz", {"a": value})
    assert not (tmp_path / "w.npz").exists()


@pytest.mark.parametrize("dtype", [">f4", ">i8"])
def test_bytes_in_another_order_are_refused(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        weights.write(tmp_path / "w.npz", {"a": np.zeros(2, dtype)})
    index = np.frombuffer(b'{"arrays": [["a", "%s", [1]]], "constants": []}' % dtype.encode(), np.uint8)
    np.savez(tmp_path / "w.npz", index=index, data=np.zeros(np.dtype(dtype).itemsize, np.uint8))
    with pytest.raises(ArtifactError, match="'a'"):
        weights.read(tmp_path / "w.npz")


@pytest.mark.parametrize("dtype", TYPES)
def test_library(dtype: str, tmp_path: Path) -> None:
    model, x = joined(dtype), array(dtype)
    wanted = run_onnx(model, x)
    tvm_schedules.build(model, tmp_path / "out", samples=x)
    for have, want in zip(tvm_schedules.load(tmp_path / "out")(x), wanted, strict=True):
        assert have.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(have, want)
    inputs, outputs = load_samples(tmp_path / "out")
    for have, want in zip([*inputs[0], *outputs[0]], [x, *wanted], strict=True):
        assert have.dtype == want.dtype
        np.testing.assert_array_equal(have, want)


def test_c_tables() -> None:
    assert {np.dtype(name).itemsize for name in C_TYPES} == {1, 4, 8}
    program = Program()
    for name in C_TYPES:
        program.array(name, array(name))
    assert program.table_bytes == sum(10 * np.dtype(name).itemsize for name in C_TYPES)


@pytest.mark.parametrize("dtype", ["uint16", "bool", "float16"])
def test_c_target_names_a_type_that_it_lacks(dtype: str, tmp_path: Path) -> None:
    kind = ONNX[dtype]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, (2, 5))],
        [helper.make_tensor_value_info("y", kind, (2, 5))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match=f"'x' .*{dtype}.*float32"):
        tvm_schedules.build(model, tmp_path / "out", "c")


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "uint8", "float16", "float32"])
def test_opencl_source(dtype: str) -> None:
    plan = compile_gpu(joined(dtype), resolve("opencl")).plan
    assert [entry.dtype for entry in (*plan.inputs, *plan.outputs)] == [dtype] * 3


@pytest.mark.parametrize("name", OTHERS)
def test_other_types_of_onnx_are_refused_by_name(name: str, tmp_path: Path) -> None:
    kind = TensorProto.DataType.Value(name)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, (2, 5))],
        [helper.make_tensor_value_info("y", kind, (2, 5))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=11)
    with pytest.raises(ModelError, match="'x' has elements of type"):
        tvm_schedules.build(model, tmp_path / "out")


def test_names_in_errors() -> None:
    assert check_type(np.float16, "x") == "float16"
    with pytest.raises(ModelError, match="it has elements of type complex64; possible are bool, int8"):
        check_type("complex64", "it")
