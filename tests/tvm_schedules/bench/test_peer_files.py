"""Engines that run a file of their own: what they are given and what they give, with small stand-ins for them."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest

import tvm_schedules
from tests.tvm_schedules.artifact_nets import Builder, conv_net
from tvm_schedules.bench import bench, peers
from tvm_schedules.bench.machines import PythonBoard
from tvm_schedules.bench.measure import Request
from tvm_schedules.engines import peer_engines
from tvm_schedules.engines.process import BY_FILE
from tvm_schedules.errors import BenchError

NCNN = """
import numpy as np
class Mat(np.ndarray):
    def __new__(cls, array): return array.view(cls)
class Extractor:
    def input(self, name, mat): assert (name, mat.ndim) == ("data", 3); self.mat = mat
    def extract(self, name): return 0, np.full(10, self.mat.sum(), np.float32)
class Net:
    def __init__(self): self.opt = type("Options", (), {})()
    def load_param(self, path): return open(path).read() != "param"
    def load_model(self, path): return open(path).read() != "weights"
    def input_names(self): return ["data"]
    def output_names(self): return ["out"]
    def create_extractor(self): return Extractor()
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peer-files") / "artifact"
    tvm_schedules.build(conv_net(), path)
    return path


def interpreter(folder: Path, modules: Path) -> str:
    """A Python that has the modules of a folder, although it is asked to be isolated."""
    start = (
        f"import runpy, sys; sys.path.insert(0, {str(modules)!r}); sys.argv = sys.argv[2:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{start}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    (tmp_path / "net.param").write_text("param")
    (tmp_path / "net.bin").write_text("weights")
    return tmp_path / "net.param"


def test_a_file_is_measured_beside_the_artifact(artifact: Path, network: Path, tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "ncnn.py").write_text(NCNN)
    pythons = {"ncnn": interpreter(tmp_path, modules)}
    result = bench(artifact, Request((f"ncnn={network}",), rounds=1, seconds=0.01, pythons=pythons))
    (entry,) = result["results"]
    ours, other = entry["engines"]
    assert (ours["name"], other["name"]) == ("tern", "ncnn net.param")
    assert other["median_ms"] > 0
    assert other["file_bytes"] == len("param") + len("weights")
    assert other["relative_error"] > 0.1, "it computes something else"
    assert entry["skipped"] == []


def test_an_engine_that_is_not_there_is_skipped_with_a_way_out(artifact: Path, network: Path, tmp_path: Path) -> None:
    pythons = {"ncnn": interpreter(tmp_path, tmp_path)}
    result = bench(artifact, Request((f"ncnn={network}",), rounds=1, seconds=0.01, pythons=pythons))
    (skipped,) = result["results"][0]["skipped"]
    assert skipped["name"] == "ncnn net.param"
    assert "No module named 'ncnn'; pip install ncnn, or --peer-python ncnn=PATH/bin/python" in skipped["reason"]


def test_files_and_engines_that_are_not_there_are_refused(artifact: Path, network: Path) -> None:
    for against, message in (
        ("litert=none.tflite", r"none.tflite is no file"),
        (f"tflite={network}", r"against must be one of onnxruntime, executorch=FILE, litert=FILE.* got 'tflite="),
        (f"ncn={network}", r"did you mean 'ncnn'\?"),
        ("litert", r"litert=FILE"),
    ):
        with pytest.raises(BenchError, match=message):
            bench(artifact, Request((against,)))


def test_a_board_has_no_files_of_other_engines() -> None:
    board = PythonBoard(SimpleNamespace(name="pi@10.0.0.7", info={"packages": {}}))  # type: ignore[arg-type]
    assert {board.lacks(kind) for kind in BY_FILE} == {
        "its file is here: copy it to pi@10.0.0.7, and run tern-bench there"
    }


def test_sizes_have_the_weights_beside_a_file(tmp_path: Path) -> None:
    for name in ("net.xml", "net.bin", "net.tflite"):
        (tmp_path / name).write_bytes(b"1234")
    assert peers.by_file(f"openvino={tmp_path / 'net.xml'}", {}).bytes == 8
    assert peers.by_file(f"openvino={tmp_path / 'net.bin'}", {}).bytes == 4
    assert peers.by_file(f"litert={tmp_path / 'net.tflite'}", {"litert": "/x/python"}).python == "/x/python"


def test_tensors_get_the_shape_that_the_file_has() -> None:
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert peer_engines.fitted(x, (2, 3, 4, 5)) is x
    assert np.array_equal(peer_engines.fitted(x, (2, 4, 5, 3)), np.moveaxis(x, 1, 3))
    assert np.array_equal(peer_engines.fitted(np.moveaxis(x, 1, 3), (2, 3, 4, 5)), x)
    assert np.array_equal(peer_engines.fitted(x, (2, 60)), x.reshape(2, 60))
    with pytest.raises(ValueError, match=r"shape \[7\] where the artifact has \[2, 3, 4, 5\]"):
        peer_engines.fitted(x, (7,))


class Interpreter:
    """As LiteRT's: images with channels last, 8 bits; the sum of every channel comes out, in units of 1/2."""

    made: ClassVar[list[Interpreter]] = []

    def __init__(self, model_path: str, num_threads: int) -> None:
        self.options, self.given = (model_path, num_threads), []
        Interpreter.made.append(self)

    def allocate_tensors(self) -> None: ...

    def get_input_details(self) -> list[dict[str, Any]]:
        return [{"index": 0, "shape": np.array([1, 2, 2, 3]), "dtype": np.int8, "quantization": (0.5, -1)}]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [{"index": 1, "quantization": (0.5, 10)}, {"index": 2, "quantization": (0.0, 0)}]

    def set_tensor(self, index: int, value: np.ndarray) -> None:
        self.given.append(value)

    def invoke(self) -> None:
        self.sums = ((self.given[-1].astype(np.float32) + 1) * 0.5).sum((1, 2))

    def get_tensor(self, index: int) -> np.ndarray:
        return np.asarray(np.rint(self.sums / 0.5) + 10, np.int8) if index == 1 else self.sums


def test_litert_gets_its_own_rounding_and_gives_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", SimpleNamespace(Interpreter=Interpreter))
    run = peer_engines.load("litert", "net.tflite", 2)
    x = np.random.default_rng(0).integers(-8, 8, (1, 3, 2, 2)).astype(np.float32) / 2
    for _ in range(2):
        rounded, plain = run([x])
        assert rounded.tolist() == plain.tolist() == [x.sum((2, 3))[0].tolist()]
    model = Interpreter.made[-1]
    assert model.options == ("net.tflite", 2)
    assert model.given[0] is model.given[1], "made once: the network is what is timed"
    assert model.given[0].dtype == np.int8
    run([x + 1000])
    assert model.given[2].max() == 127


def test_quantizing_a_masked_network_prints_nothing(tmp_path: Path) -> None:
    """Attention adds minus infinity where nothing may be seen; onnxruntime's tool divides by the range of that."""
    builder = Builder()
    weight = builder.constant("weight", builder.random.standard_normal((8, 8)).astype(np.float32))
    mask = builder.constant("mask", np.where(np.tri(8) > 0, 0, -np.inf).astype(np.float32))
    scores = builder.op("Add", [builder.op("MatMul", ["x", weight], "products"), mask], "scores")
    builder.op("MatMul", [builder.op("Softmax", [scores], "shares", axis=-1), weight], "y")
    onnx.save(builder.model({"x": [8, 8]}, {"y": [8, 8]}), tmp_path / "net.onnx")
    tvm_schedules.build(tmp_path / "net.onnx", tmp_path / "artifact", verify=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        peers.quantize(tmp_path / "net.onnx", tmp_path / "int8.onnx", tmp_path / "artifact")
    assert (tmp_path / "int8.onnx").is_file()
