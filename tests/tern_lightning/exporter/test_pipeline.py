"""tern_lightning.export: samples, batches, what is handed to the compiler, and that nothing good is ever lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import tern_lightning
from tern_lightning.exporter import ExportError
from tern_lightning.exporter import pipeline as exporter
from tests.tern_lightning.exporter.export_nets import make_ternary, relative_error, run


def make_net() -> nn.Module:
    return make_ternary(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)))


class Compiler:
    """Stands in for tvm_schedules.build and keeps what it was given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.calls = error, []  # type: ignore[var-annotated]

    def __call__(self, model: Any, output: Path, **options: Any) -> str:
        self.calls.append({"model": model, "output": output, **options})
        if self.error is not None:
            raise self.error
        return "artifact"


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    found = Compiler()
    monkeypatch.setattr("tvm_schedules.build", found, raising=False)
    return found


def test_name_is_the_function_even_after_its_module_was_imported() -> None:
    assert callable(tern_lightning.export)
    assert tern_lightning.export is exporter.export


def test_onnx_only(tmp_path: Path) -> None:
    net = make_net()
    x = np.random.default_rng(0).standard_normal((20, 12))  # doubles, as data often is
    result = tern_lightning.export(net, tmp_path / "out", samples=x, onnx_only=True)
    assert result.onnx == tmp_path / "out" / "model.onnx"
    assert os.listdir(tmp_path / "out") == ["model.onnx"]
    assert result.artifact is None
    assert result.calibrated_on_data
    model = onnx.load(result.onnx)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 12]
    assert result.network.ranges["input"].high == pytest.approx(x.max(), rel=1e-2), "all samples calibrate"
    batch = torch.from_numpy(x[:1]).float()
    assert relative_error(run(model, batch)[0], net(batch)) < 0.05


def test_compiler_gets_the_network_and_its_samples(tmp_path: Path, compiler: Compiler) -> None:
    x = torch.randn(50, 12)
    lines: list[str] = []
    result = tern_lightning.export(
        make_net(), tmp_path / "out", target="arm", samples=x, batch_size=4, verify=False, progress=lines.append
    )
    (call,) = compiler.calls
    assert result.artifact == "artifact"
    assert (call["output"], call["target"], call["verify"]) == (tmp_path / "out", "arm", False)
    (given,) = call["samples"]
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given, x[:32].numpy())
    assert onnx.load_from_string(call["model"]).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert any("compiling for arm" in line for line in lines)
    assert not call["batch_sizes"]


def test_several_batch_sizes(tmp_path: Path, compiler: Compiler) -> None:
    x = torch.randn(50, 12)
    tern_lightning.export(make_net(), tmp_path / "out", samples=x, batch_size=(2, 16))
    (call,) = compiler.calls
    assert list(call["batch_sizes"]) == [2, 16]
    assert onnx.load_from_string(call["model"]).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    for sizes, onnx_only in (((), False), ((1, 8), True)):
        with pytest.raises(ValueError, match="batch_size must be one size"):
            tern_lightning.export(make_net(), tmp_path / "out", samples=x, batch_size=sizes, onnx_only=onnx_only)


def test_earlier_export_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    tern_lightning.export(make_net(), out, input_shape=(1, 12), onnx_only=True)
    before = (out / "model.onnx").read_bytes()

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ExportError, match="No space left"):
        tern_lightning.export(make_net(), out, input_shape=(1, 12), onnx_only=True, activations="float32")
    bad = make_net()
    bad[2].weight.data[0, 0] = float("inf")
    with pytest.raises(ExportError, match=r"2\.weight"):
        tern_lightning.export(bad, out, input_shape=(1, 12), onnx_only=True)
    assert os.listdir(out) == ["model.onnx"]
    assert (out / "model.onnx").read_bytes() == before


def test_output_that_is_a_file_or_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(ExportError, match="file"):
            tern_lightning.export(make_net(), place, input_shape=(1, 12), onnx_only=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_unknown_target_fails_before_the_work(tmp_path: Path, compiler: Compiler) -> None:
    with pytest.raises(ValueError, match="pi4"):
        tern_lightning.export(make_net(), tmp_path / "out", target="pi99", input_shape=(1, 12))
    assert not compiler.calls
    assert not (tmp_path / "out").exists()


def test_without_ternary_layers_it_says_so(tmp_path: Path) -> None:
    lines: list[str] = []
    net = nn.Sequential(nn.Linear(12, 4))
    result = tern_lightning.export(net, tmp_path, input_shape=(1, 12), onnx_only=True, progress=lines.append)
    assert any("no layer is ternary" in line for line in lines)
    assert result.network.dense == ("0",)
    assert not result.calibrated_on_data
    assert repr(result).startswith(
        f"ExportResult({str(tmp_path)!r}, 0 ternary layers, 8 bits against the module: cosine "
    )
    assert len(repr(result)) < 200 + len(str(tmp_path))
