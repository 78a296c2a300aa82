from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvm_schedules
from tests.tvm_schedules import fake
from tvm_schedules.artifact import load_samples, output_folder, store
from tvm_schedules.backends.cpu import threads
from tvm_schedules.backends.cpu.files import LIBRARY, PROBE
from tvm_schedules.errors import (
    ArtifactError,
    CpuFeatureError,
    InputError,
    LinkError,
    ModelError,
    OutputError,
    ShapeError,
    TargetError,
    VerificationError,
)
from tvm_schedules.targets import host_cpu as cpu
from tvm_schedules.verify.samples import Samples

pytestmark = pytest.mark.usefixtures("fake_compiler")

LIBRARY_FILES = (LIBRARY, store.WEIGHTS, store.MODEL, store.SAMPLES, PROBE)
"""What an artifact of a library consists of, beside its metadata."""


@pytest.fixture
def built(tmp_path: Path) -> Path:
    tvm_schedules.build(fake.model(), tmp_path / "out")
    return tmp_path / "out"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def alone(folder: Path) -> bool:
    """Nothing half-made lies beside the artifact."""
    return os.listdir(folder.parent) == [folder.name]


def test_build_load_run(built: Path) -> None:
    model = tvm_schedules.load(built)
    x = np.random.default_rng(1).standard_normal((1, fake.K)).astype(np.float32)
    expected = fake.reference(x, fake.model())
    first = model(x)
    np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model(x=x), first)
    kept = first.copy()
    model(x + 1)
    np.testing.assert_array_equal(first, kept)  # outputs are the caller's own
    assert "float32[1, 8]" in repr(model)
    metadata = store.read_metadata(built)
    assert metadata["verification"]["passed"] is True
    assert metadata["files"].keys() == set(LIBRARY_FILES)
    assert onnx.load(built / "model.onnx") == fake.model()
    assert alone(built)


def test_samples_are_verified_and_stored(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).standard_normal((20, fake.K)).astype(np.float32)
    artifact = tvm_schedules.build(fake.model("batch"), tmp_path / "out", samples={"x": samples})
    assert artifact.report is not None
    assert artifact.report.runs == 20
    assert artifact.report.outputs[0].max_abs < 1e-5
    inputs, outputs = load_samples(artifact.path)
    np.testing.assert_array_equal(np.concatenate([run[0] for run in inputs]), samples[:8])
    np.testing.assert_allclose(outputs[3][0], fake.reference(samples[3:4], fake.model()), rtol=1e-5, atol=1e-6)


def test_open_shapes(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"input 'x' has no fixed size in dimension 0 \(batch\); give samples"):
        tvm_schedules.build(fake.model("batch"), tmp_path / "out")
    artifact = tvm_schedules.build(fake.model("batch"), tmp_path / "out", input_shapes={"x": [4, fake.K]})
    assert artifact.load()(np.zeros((4, fake.K), np.float32)).shape == (4, fake.N)
    with pytest.raises(ShapeError, match=r"size 8 in dimension 1, got shape \[1, 9\]"):
        tvm_schedules.build(fake.model("batch"), tmp_path / "out", input_shapes={"x": [1, 9]})
    with pytest.raises(ShapeError, match="shape given for 'z', but the model's inputs are x"):
        tvm_schedules.build(fake.model(), tmp_path / "out", input_shapes={"z": [1]})


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 9), np.float32), r"shape \[1, 8\] or a multiple"),
        (np.zeros((2, 8)), "must have dtype float32, got float64"),
        ({"z": np.zeros((2, 8), np.float32)}, "given for the inputs x, got z"),
        ([np.zeros((2, 8), np.float32)] * 2, r"must be 1 arrays \(x\), got 2"),
        (np.zeros((0, 8), np.float32), "multiple"),
    ],
)
def test_wrong_samples(samples: Samples, message: str, tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=message):
        tvm_schedules.build(fake.model(), tmp_path / "out", samples=samples)
    assert not os.listdir(tmp_path)


def nan_model() -> onnx.ModelProto:
    model = fake.model()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([0, np.nan, 1], np.float32), "fc.bias"))
    return model


def test_bad_models(tmp_path: Path) -> None:
    good = fake.model().SerializeToString()
    (tmp_path / "cut.onnx").write_bytes(good[: len(good) // 2])
    cases: list[tuple[object, str]] = [
        (b"", "not a valid ONNX model"),
        (b"not a model at all", "not a valid ONNX model"),
        (good[: len(good) // 2], "not a valid ONNX model"),
        (tmp_path / "cut.onnx", r"cut\.onnx is not a valid ONNX model"),
        (tmp_path / "none.onnx", r"cannot read .*none\.onnx"),
        (nan_model(), "weight 'fc.bias' of the model has values that are NaN"),
    ]
    for source, message in cases:
        with pytest.raises(ModelError, match=message):
            tvm_schedules.build(source, tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_unknown_target(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="must be one of host, arm"):
        tvm_schedules.build(fake.model(), tmp_path / "out", "toaster")


def test_failures_leave_the_earlier_artifact(
    built: Path, fake_compiler: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(built)
    fake_compiler(error=0.5)
    with pytest.raises(VerificationError, match=r"MISMATCH y: max abs 0\.[45]"):
        tvm_schedules.build(fake.model(), built)
    assert content(built) == before
    fake_compiler()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place, name in ((output_folder, "_flush"), (output_folder, "_exchange")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(OutputError, match="nothing was changed: No space left on device"):
                tvm_schedules.build(fake.model(), built)
        assert content(built) == before
        assert alone(built)


def _build_and_die(output: Path) -> None:
    """In a process of its own: killed when the new directory is complete, just before the exchange."""
    output_folder._commit = lambda folder, target: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    with output_folder.replacing(output) as folder:
        (folder / LIBRARY).write_bytes(b"new")


def test_kill_in_the_middle_leaves_the_earlier_artifact(built: Path) -> None:
    before = content(built)
    process = multiprocessing.get_context("spawn").Process(target=_build_and_die, args=(built,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert content(built) == before
    assert not alone(built)  # the dead build's directory ...
    tvm_schedules.build(fake.model(seed=1), built)
    assert alone(built)  # ... goes with the next build
    assert onnx.load(built / "model.onnx") == fake.model(seed=1)


@pytest.mark.parametrize("exchange", [True, False])
def test_replacing_keeps_foreign_files(built: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(output_folder, "_exchange", lambda new, old: False)
    (built / "bench.json").write_text("{}")
    (built / "notes").mkdir()
    (built / "notes" / "a.txt").write_text("mine")
    tvm_schedules.build(fake.model(seed=1), built)
    assert (built / "bench.json").read_text() == "{}"
    assert (built / "notes" / "a.txt").read_text() == "mine"
    assert onnx.load(built / "model.onnx") == fake.model(seed=1)
    assert alone(built)


def test_artifact_moved_aside_by_a_killed_build_comes_back(built: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    built.rename(built.parent / f".out.tern-old-{process.pid}-0")
    with pytest.raises(RuntimeError, match="stop"), output_folder.replacing(built):
        raise RuntimeError("stop")
    tvm_schedules.load(built)
    assert alone(built)


def test_what_is_no_artifact_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    (tmp_path / "file").write_text("text")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metadata.json").write_text('{"format": "something else"}')
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    for name in ("photos", "file", "other"):
        with pytest.raises(OutputError, match=name):
            tvm_schedules.build(fake.model(), tmp_path / name)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_an_export_without_compilation_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").write_bytes(b"a network")
    with output_folder.replacing(tmp_path / "out") as folder:
        (folder / "new").write_text("artifact")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_missing_linker_stops_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tvm_schedules.backends import toolchain as linking

    monkeypatch.setattr(linking, "_has_zig", lambda: False)
    monkeypatch.setattr(linking.shutil, "which", lambda name: None)
    with pytest.raises(LinkError, match="pip install ziglang"):
        tvm_schedules.build(fake.model(), tmp_path / "out", "pi4")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", LIBRARY_FILES)
def test_damage_is_found(built: Path, name: str) -> None:
    path = built / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=f"{name} is damaged: its SHA-256"):
        tvm_schedules.load(built)
    path.write_bytes(bytes(data[:-1]))
    with pytest.raises(ArtifactError, match=f"{name} is damaged: .* bytes, written were"):
        tvm_schedules.load(built, check_hashes=False)


def test_a_device_needs_code_weights_and_metadata_alone(built: Path) -> None:
    x = np.random.default_rng(1).standard_normal((1, fake.K)).astype(np.float32)
    expected = tvm_schedules.load(built)(x)
    for name in (store.MODEL, store.SAMPLES, PROBE):
        (built / name).unlink()
        np.testing.assert_array_equal(tvm_schedules.load(built)(x), expected)
    for name in (LIBRARY, store.WEIGHTS):
        content = (built / name).read_bytes()
        (built / name).unlink()
        with pytest.raises(ArtifactError, match=f"{name} is missing"):
            tvm_schedules.load(built)
        (built / name).write_bytes(content)


def test_metadata_names_files_of_an_artifact_alone(built: Path) -> None:
    metadata = store.read_metadata(built)
    (built.parent / "secret").write_text("nobody's business")
    metadata["files"]["../secret"] = {"bytes": 17, "sha256": store.sha256(built.parent / "secret")}
    metadata["sha256"] = store._own_hash(metadata)
    (built / store.METADATA).write_text(json.dumps(metadata))
    with pytest.raises(ArtifactError, match=r"names '\.\./secret', which is no file of an artifact"):
        tvm_schedules.load(built)


def test_keys_of_earlier_versions_are_read(built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(built, tmp_path / "earlier")
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["quantisation"] = metadata.pop("quantization")  # codespell:ignore quantisation
    store.write_metadata(folder, metadata)
    assert store.read_metadata(folder)["quantization"] == metadata["quantisation"]  # codespell:ignore quantisation
    x = np.random.default_rng(1).standard_normal((1, fake.K)).astype(np.float32)
    assert np.array_equal(tvm_schedules.load(folder)(x), tvm_schedules.load(built)(x))


def test_changed_metadata_is_found(built: Path, tmp_path: Path) -> None:
    path = built / store.METADATA
    good = json.loads(path.read_text())
    for change, message in (
        ({"steps": []}, "changed after it was written"),
        ({"version": 99}, "artifact version 99, this package reads version 4"),
        ({"format": "x"}, "does not say format"),
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(ArtifactError, match=message):
            tvm_schedules.load(built)
    path.write_text("{")
    with pytest.raises(ArtifactError, match=r"metadata\.json is damaged"):
        tvm_schedules.load(built)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"has no metadata\.json"):
        tvm_schedules.load(built)
    with pytest.raises(ArtifactError, match="is not a directory"):
        tvm_schedules.load(tmp_path / "nothing")


def test_cpu_without_the_features_is_refused(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    present = cpu.features()
    wanted = store.read_metadata(built)["target"]["features"]
    if present is None or not wanted:
        pytest.skip("this system does not tell its CPU's features")
    monkeypatch.setattr(cpu, "features", lambda: present - {wanted[0]})
    with pytest.raises(CpuFeatureError, match=rf"does not have: {wanted[0]}; export it for target"):
        tvm_schedules.load(built)


def test_other_architecture_is_refused_and_verified_by_a_host_build(tmp_path: Path) -> None:
    other = "aarch64" if cpu.architecture() == "x86_64" else "x86_64"
    name = "a76" if other == "aarch64" else '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64"}'
    artifact = tvm_schedules.build(fake.model(), tmp_path / "out", name)
    assert artifact.report is not None
    assert artifact.report.where.startswith("host build of the same graph")
    with pytest.raises(CpuFeatureError, match=f"was built for {other} .*this machine .* is {cpu.architecture()}; run"):
        artifact.load()


@pytest.mark.parametrize(
    ("args", "named", "message"),
    [
        ((np.zeros((1, 9), np.float32),), {}, r"input 'x' must have shape \[1, 8\], or any number .*, got \[1, 9\]"),
        ((np.zeros((1, 8)),), {}, "input 'x' must have dtype float32, got float64"),
        (([[0.0] * 8],), {}, "input 'x' must be a numpy array, got list"),
        ((), {}, "input 'x' is missing"),
        ((), {"z": np.zeros((1, 8), np.float32)}, "no input 'z'"),
        ((np.zeros((1, 8), np.float32),) * 2, {}, "has 1 inputs"),
        ((np.zeros((1, 8), np.float32),), {"x": np.zeros((1, 8), np.float32)}, "given twice"),
    ],
)
def test_wrong_inputs(built: Path, args: tuple[np.ndarray, ...], named: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tvm_schedules.load(built)(*args, **named)


def test_strided_inputs_and_threads(built: Path) -> None:
    model = tvm_schedules.load(built, threads=2)
    xs = np.random.default_rng(2).standard_normal((50, 1, 2 * fake.K)).astype(np.float32)[:, :, ::2]
    expected = [fake.reference(x, fake.model()) for x in xs]
    results: dict[int, np.ndarray] = {}

    def work(part: int) -> None:
        for index in range(part, len(xs), 4):
            results[index] = model(xs[index])

    workers = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, value in enumerate(expected):
        np.testing.assert_allclose(results[index], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [0, -1, 129, 10**30, 2.0, float("nan"), float("inf"), "2", True, np.float32(2)])
def test_numbers_of_threads_that_are_none(built: Path, count: Any) -> None:
    kind = ValueError if type(count) is int else TypeError
    message = re.escape(f"threads must be an integer from 1 to 128, got {count!r}")
    with pytest.raises((ValueError, TypeError), match=message if type(count) is int else "threads must be an int"):
        tvm_schedules.load(built, threads=count)
    model = tvm_schedules.load(built, threads=np.int64(2))  # type: ignore[arg-type]
    with pytest.raises(kind, match=message):
        model.threads = count
    assert model.threads == 2


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("3", 3), ("007", 7), ("1000", 128), ("9" * 5000, 128)]
    + [(text, None) for text in ("", "0", "-1", "2.0", "\N{SUPERSCRIPT TWO}", "two")],
)
def test_default_threads_are_the_users_choice(
    setting: str, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_SETTING", setting)
    assert threads.default_threads() == (threads._cores() if expected is None else expected)
    assert 1 <= threads.default_threads() <= max(128, os.cpu_count() or 1)


def test_steps_run_one_at_a_time(built: Path) -> None:
    model = tvm_schedules.load(built)
    x = np.random.default_rng(3).standard_normal((1, fake.K)).astype(np.float32)
    expected = model(x)
    model._out[0][:] = -1
    model.run_steps(0, 1)
    assert (model._out[0] == -1).all()  # the first step only writes the working memory
    model.run_steps(1, 2)
    np.testing.assert_array_equal(model._out[0], expected)
    with pytest.raises(ValueError, match="end <= 2, got 0, 3"):
        model.run_steps(0, 3)
