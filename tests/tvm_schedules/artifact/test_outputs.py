"""Networks that end at other tensors than their files: detectors without the choice of boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tvm_schedules
from tern_lightning.cli.export import main
from tests.tvm_schedules.nets import Net, run_onnx
from tvm_schedules.errors import InputError, ShapeError
from tvm_schedules.frontend.onnx_model import keep_outputs, signature

F = np.float32


def detector() -> tuple[onnx.ModelProto, str, str]:
    """A detector that chooses its boxes by itself, and the names of boxes and scores."""
    net = Net((1, 3, 16, 16), (1,))
    x = net.op("Conv", net.quantize("input_0", 0.02, 128), net.weight((8, 3, 3, 3), 0.5), pads=[1] * 4, strides=[2, 2])
    x = net.op("Conv", net.quantize(net.op("Relu", x)), net.weight((6, 8, 1, 1), 0.5), net.bias(6))
    x = net.op("Reshape", x, net.const(np.array([1, 6, 64])))
    parts = net.op("Split", x, net.const(np.array([4, 2])), outputs=2, axis=1)
    boxes, scores = net.op("Transpose", parts, perm=[0, 2, 1]), net.op("Sigmoid", f"{parts}_1")
    least = net.op("Mul", "input_1", net.const(F([0.1])))
    found = net.op("NonMaxSuppression", boxes, scores, net.const(np.array([10])), net.const(F([0.5])), least)
    ends = [helper.make_tensor_value_info(found, TensorProto.INT64, ["found", 3])]
    graph = helper.make_graph(net.nodes, "net", net.inputs, ends, net.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    onnx.checker.check_model(model)
    return model, boxes, scores


def test_a_choice_of_boxes_is_refused_with_the_way_out() -> None:
    model, boxes, scores = detector()
    with pytest.raises(ShapeError, match="NonMaxSuppression") as error:
        tvm_schedules.build(model, "never")
    assert f"--network-outputs {boxes},{scores}" in str(error.value)
    assert f"outputs={[boxes, scores]}"[:-1] in str(error.value)


def test_what_comes_before_it_compiles(tmp_path: Path) -> None:
    model, boxes, scores = detector()
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    keep_outputs(cut, [scores, boxes])
    onnx.checker.check_model(cut, full_check=True)
    artifact = tvm_schedules.build(model, tmp_path / "out", outputs=[scores, boxes])
    assert artifact.report is not None
    assert artifact.report.passed
    x = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(F)
    library = artifact.load()
    assert [entry["name"] for entry in signature(cut, "input")] == ["input_0"], "the least score is not read any more"
    for ours, theirs in zip(library(x), run_onnx(cut, x), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.05)
    assert library(x)[0].shape == (1, 2, 64)


def test_the_command_line_takes_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, boxes, scores = detector()
    onnx.save(model, tmp_path / "detector.onnx")
    place = tmp_path / "out"
    assert (
        main([str(tmp_path / "detector.onnx"), "--output", str(place), "--network-outputs", f"{boxes},{scores}"]) == 0
    )
    assert len(tvm_schedules.load(place)(np.zeros((1, 3, 16, 16), F))) == 2
    (tmp_path / "net.ckpt").write_bytes(b"")
    assert main([str(tmp_path / "net.ckpt"), "--output", str(place), "--network-outputs", "a"]) != 0
    assert "--network-outputs is for ONNX files" in capsys.readouterr().err


@pytest.mark.parametrize(("names", "message"), [(["sigmod_1"], "must be tensors"), (["input_0"], "must be tensors")])
def test_other_names_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        keep_outputs(detector()[0], names)


def test_a_tensor_is_no_output_twice() -> None:
    model, boxes, _ = detector()
    with pytest.raises(InputError, match="twice"):
        keep_outputs(model, [boxes, boxes])
