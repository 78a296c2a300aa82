"""What is no network, or has weights that are not finite, is refused by the one reader of ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tvm_schedules.errors import ModelError
from tvm_schedules.frontend.onnx_file import read_model


def network(op: str, constant: np.ndarray) -> onnx.ModelProto:
    """``op`` of an input [2, 3] and a constant."""
    kind = helper.np_dtype_to_tensor_dtype(constant.dtype)
    ends = [helper.make_tensor_value_info("x", kind, [2, 3]), helper.make_tensor_value_info("y", kind, ["rows", "n"])]
    nodes = [helper.make_node(op, ["x", "w"], ["y"], name="only")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(constant, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def test_a_file_its_bytes_and_a_model_are_read_alike(tmp_path: Path) -> None:
    model = network("MatMul", np.ones((3, 4), np.float32))
    onnx.save(model, tmp_path / "a.onnx")
    assert read_model(tmp_path / "a.onnx") == read_model(str(tmp_path / "a.onnx")) == model
    assert read_model(model.SerializeToString()) == model
    copy = read_model(model)
    assert copy == model
    assert copy is not model


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(dtype: type, bad: float) -> None:
    weight = np.ones((3, 4), dtype)
    weight[1, 2] = bad
    with pytest.raises(ModelError, match="weight 'w' of the model has values that are NaN or infinite"):
        read_model(network("MatMul", weight))


def test_masks_may_be_infinite_but_not_nan() -> None:
    mask = np.zeros((2, 3), np.float32)
    mask[0, 1] = -np.inf
    assert read_model(network("Add", mask)).graph.node[0].op_type == "Add"
    mask[0, 1] = np.nan
    with pytest.raises(ModelError, match="weight 'w'"):
        read_model(network("Add", mask))


def test_what_computes_nothing_is_refused(tmp_path: Path) -> None:
    model = network("MatMul", np.ones((3, 4), np.float32))
    del model.graph.node[:]
    del model.graph.output[:]
    with pytest.raises(ModelError, match="the model has no nodes or no outputs"):
        read_model(model)
    with pytest.raises(ModelError, match=r"cannot read .*none\.onnx"):
        read_model(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError, match=r"text\.onnx is not a valid ONNX model"):
        read_model(tmp_path / "text.onnx")
    with pytest.raises(ModelError, match="is not a valid ONNX model"):
        read_model(network("NoSuchOperator", np.ones(1, np.float32)))
