"""What a back end has to be: the three of the package, and a fourth one that is a module and a line."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import tvm_schedules
from tests.tvm_schedules.backends import toy
from tests.tvm_schedules.nets import Net, run_onnx
from tvm_schedules import pipeline
from tvm_schedules.artifact import process, store
from tvm_schedules.backends import registry
from tvm_schedules.backends.base import Backend
from tvm_schedules.cli import inspect as inspect_command
from tvm_schedules.errors import (
    ArtifactError,
    LinkError,
    ModelError,
    TargetError,
    TunerError,
    UnsupportedOperatorError,
    VerificationError,
)
from tvm_schedules.runtime.model import SteppedModel
from tvm_schedules.targets import registry as targets

TOY = "tests.tvm_schedules.backends.toy"


def mlp(seed: int = 0) -> onnx.ModelProto:
    net = Net((2, 12), seed=seed)
    x = net.op("Relu", net.op("Gemm", "input_0", net.weight((9, 12), 0.5), net.bias(9), transB=1))
    return net.model(net.op("Gemm", x, net.weight((4, 9), 0.4), net.bias(4), transB=1))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 12)).astype(np.float32)


def expected(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.concatenate([run_onnx(model, x[i : i + 2])[0] for i in range(0, len(x), 2)])


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The line, in this process and in the compiler's."""
    monkeypatch.setitem(registry.MODULES, TOY, ("toy",))
    line = f"from tvm_schedules.backends import registry; registry.MODULES[{TOY!r}] = ('toy',); "
    where = process.START.index("from tvm_schedules")
    monkeypatch.setattr(process, "START", process.START[:where] + line + process.START[where:])
    yield
    monkeypatch.undo()


def test_every_target_has_a_back_end() -> None:
    names = [name for name in targets.known() if name not in ("host", "sm_XX")]
    specs = [targets.resolve(name) for name in (*names, "sm_86")]
    found = {spec.name: registry.for_target(spec) for spec in specs}
    assert all(isinstance(backend, Backend) for backend in found.values())
    assert len(set(found.values())) == 3
    assert found["pi4"] is registry.for_target(None) is registry.for_kind("llvm")
    assert found["mali"] is found["sm_86"]
    with pytest.raises(TargetError, match="no back end makes code for targets of the kind 'toy'"):
        registry.for_target(toy.SPEC)


def test_files_belong_to_one_back_end() -> None:
    files = registry.files()
    assert len(set(files)) == len(files)
    assert set(registry.not_run()) < set(files)
    assert not {store.METADATA, store.WEIGHTS, store.MODEL, store.SAMPLES} & set(files)


@pytest.mark.usefixtures("registered")
def test_a_fourth_back_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, lines = mlp(), list[str]()
    artifact = tvm_schedules.build(model, tmp_path / "out", toy.SPEC, progress=lines.append)
    assert artifact.report is not None
    assert artifact.report.passed
    assert artifact.report.where == "layers in numpy"
    assert "write layers" in lines
    assert artifact.metadata["code"] == {"source": toy.FILE}
    assert toy.FILE in artifact.metadata["files"]
    loaded = tvm_schedules.load(tmp_path / "out")
    assert isinstance(loaded, tvm_schedules.Model)
    assert repr(loaded).startswith("ToyModel(")
    assert loaded.batch_sizes == (2,)
    x = images(6)
    for other in (loaded, copy.copy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert isinstance(other, toy.ToyModel)
        np.testing.assert_allclose(other(x), expected(model, x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(other(input_0=x[:2]), expected(model, x[:2]), rtol=1e-4, atol=1e-5)
    assert isinstance(loaded, SteppedModel)
    with pytest.raises(ValueError, match="0 <= begin <= end <= 2, got 1, 3"):
        loaded.run_steps(1, 3)
    assert inspect_command.main([str(tmp_path / "out")]) == 0
    assert "target toy (whoever has numpy), verified: layers in numpy" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "out" / toy.FILE).write_text("[]")
    with pytest.raises(ArtifactError, match=f"{toy.FILE} is damaged"):
        tvm_schedules.load(tmp_path / "out")


@pytest.mark.usefixtures("registered")
def test_what_a_fourth_back_end_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TunerError, match="target 'toy' is toy"):
        tvm_schedules.build(mlp(), tmp_path / "out", toy.SPEC, tune=True)
    net = Net((1, 3, 5, 5))
    picture = net.model(net.op("Conv", "input_0", net.weight((4, 3, 3, 3), 0.5)))
    with pytest.raises(UnsupportedOperatorError, match="the toy has no Conv"):
        tvm_schedules.build(picture, tmp_path / "out", toy.SPEC)
    monkeypatch.setattr(toy.BACKEND, "lacking", "no toy chain: buy one")
    with pytest.raises(LinkError, match="buy one"):
        tvm_schedules.build(mlp(), tmp_path / "out", toy.SPEC)
    monkeypatch.setattr(toy.ToyBackend, "batch_sizes", False)
    monkeypatch.setattr(toy.BACKEND, "lacking", None)
    with pytest.raises(ModelError, match="it takes no batch sizes"):
        tvm_schedules.build(mlp(), tmp_path / "out", toy.SPEC, batch_sizes=[4])
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("registered")
def test_other_numbers_of_samples(tmp_path: Path) -> None:
    model = mlp(1)
    loaded = tvm_schedules.build(model, tmp_path / "out", toy.SPEC, batch_sizes=[8], verify=False).load()
    assert loaded.batch_sizes == (2, 8)
    assert sorted(path.name for path in (tmp_path / "out" / "batch-8").iterdir()) == sorted(
        [toy.FILE, store.METADATA, store.WEIGHTS]
    )
    x = images(21)
    np.testing.assert_allclose(loaded(x), expected(model, np.concatenate([x, x[:1]]))[:21], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("registered")
def test_an_artifact_of_a_back_end_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tvm_schedules.build(mlp(), tmp_path / "out", toy.SPEC, verify=False)
    monkeypatch.delitem(registry.MODULES, TOY)
    with pytest.raises(ArtifactError, match="which is no file of an artifact"):
        tvm_schedules.load(tmp_path / "out")
    metadata = json.loads((tmp_path / "out" / store.METADATA).read_text())
    with pytest.raises(ArtifactError, match="no back end makes code for targets of the kind 'toy'; export it again"):
        registry.for_artifact(metadata)


def test_one_graph_serves_all_back_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph is read once; compiling it, for whatever, does not change it."""
    monkeypatch.setitem(registry.MODULES, TOY, ("toy",))
    model, x = mlp(2), images(2)
    graph = pipeline.read_graph(model)
    for spec in (toy.SPEC, targets.resolve("c"), targets.resolve("host"), replace(toy.SPEC, name="again")):
        if spec.name == "host":
            pipeline.compile_graph(graph, targets.resolve("pi4"))
            pipeline.compile_graph(graph, targets.resolve("opencl"))
        np.testing.assert_allclose(
            pipeline.run_in_memory(graph, spec)(x), run_onnx(model, x)[0], rtol=1e-4, atol=1e-4, err_msg=spec.name
        )


@pytest.mark.usefixtures("registered")
def test_outputs_that_differ_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the process that compiles, with the first tensor that does."""
    line = "from tests.tvm_schedules.backends import toy; toy.BACKEND.compile = toy.wrong; "
    where = process.START.index("from tvm_schedules.artifact")
    monkeypatch.setattr(process, "START", process.START[:where] + line + process.START[where:])
    with pytest.raises(VerificationError, match="does not agree with onnxruntime"):
        tvm_schedules.build(mlp(), tmp_path / "out", toy.SPEC)
