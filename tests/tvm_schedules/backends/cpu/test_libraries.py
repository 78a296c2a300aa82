"""A library is what is in its file, whatever was loaded from that path before."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvm_schedules
from tests.tvm_schedules import fake
from tests.tvm_schedules.artifact_nets import conv_net, integer_net
from tests.tvm_schedules.nets import run_onnx
from tvm_schedules.artifact import load as runtime
from tvm_schedules.artifact import output_folder, store
from tvm_schedules.backends.cpu import libraries
from tvm_schedules.backends.cpu import probe as ceiling
from tvm_schedules.backends.cpu.files import LIBRARY, PROBE
from tvm_schedules.errors import ArtifactError, DeviceError

SOURCE = """
typedef struct {{ int type; unsigned zero; long long number; }} Any;
int __tvm_ffi_answer(void *self, const Any *arguments, int count, Any *result) {{
  (void)self, (void)arguments, (void)count;
  *result = (Any){{1, 0, {number}}};
  return 0;
}}
"""
"""A library with one function, as TVM's loader wants it; 1 is the type of integers."""


@pytest.fixture
def library(tmp_path: Path) -> Any:
    """Makes a library whose ``answer()`` is a number."""

    def make(number: int, path: Path) -> Path:
        source, made = tmp_path / f"{number}.c", tmp_path / f"{number}.so"
        source.write_text(SOURCE.format(number=number))
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
        path.write_bytes(made.read_bytes())  # over what is there: the file stays the same one
        return path

    return make


def test_a_path_is_no_name(library: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    first = libraries.load_library(library(1, path))
    assert first["answer"]() == 1
    second = libraries.load_library(library(2, path))
    assert (first["answer"](), second["answer"]()) == (1, 2)
    path.unlink()
    third = libraries.load_library(library(3, path))
    assert [module["answer"]() for module in (first, second, third)] == [1, 2, 3]
    elsewhere = library(2, tmp_path / "other.so")
    path.unlink()
    assert libraries.load_library(elsewhere)["answer"]() == 2
    assert libraries.load_library(elsewhere) is second  # the same code is loaded once


def test_copies_are_private_and_leave_nothing(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tvm_ffi

    place, seen = tmp_path / "temporary", []
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    load = tvm_ffi.load_module

    def watched(path: str) -> Any:
        seen.append((os.stat(Path(path).parent).st_mode & 0o777, Path(path).is_symlink()))
        return load(path)

    monkeypatch.setattr(tvm_ffi, "load_module", watched)
    assert libraries.load_library(library(10, tmp_path / "a.so"))["answer"]() == 10
    assert seen == [(0o700, False)]
    assert not os.listdir(place)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")
def test_where_nothing_may_be_run(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary directory is full, or mounted so that nothing in it may be run."""
    import tvm_ffi

    load, write = tvm_ffi.load_module, Path.write_bytes

    def refused(path: str) -> Any:
        if not Path(path).is_symlink():
            raise RuntimeError("failed to map segment from shared object: Operation not permitted")
        return load(path)

    def full(path: Path, data: bytes) -> int:
        write(path, data[:100])
        raise OSError(28, "No space left on device")

    made = [library(number, tmp_path / f"place{number}.so").read_bytes() for number in (20, 21, 22)]
    with monkeypatch.context() as patch:
        patch.setattr(tvm_ffi, "load_module", refused)
        first, second = (libraries.load_content(content) for content in made[:2])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        third = libraries.load_content(made[2])
    assert [module["answer"]() for module in (first, second, third)] == [20, 21, 22]


def test_what_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "a.so").write_bytes(b"no library")
    with pytest.raises(RuntimeError, match="Failed to load"):
        libraries.load_library(tmp_path / "a.so")


@pytest.mark.parametrize(("target", "how"), [("host", "build"), ("host", "copy"), ("c", "build"), ("opencl", "build")])
def test_two_networks_in_one_path(tmp_path: Path, target: str, how: str) -> None:
    """In one process; the first one, still in use, stays the first one."""
    networks, place = [conv_net(size=6), integer_net()], tmp_path / "out"
    inputs = [
        np.random.default_rng(0).normal(size=[d.dim_value for d in net.graph.input[0].type.tensor_type.shape.dim])
        for net in networks
    ]
    models, results = [], []
    for network, x in zip(networks, inputs, strict=True):
        if how == "copy":
            tvm_schedules.build(network, tmp_path / "new", target)
            shutil.copytree(tmp_path / "new", place, dirs_exist_ok=True)
        else:
            tvm_schedules.build(network, place, target)
        try:
            models.append(tvm_schedules.load(place))
        except DeviceError as error:
            pytest.skip(str(error))
        results.append(models[-1](x.astype(np.float32)))
    for network, model, x, result in zip(networks, models, inputs, results, strict=True):
        np.testing.assert_array_equal(model(x.astype(np.float32)), result)
        expected = run_onnx(network, x.astype(np.float32))[0]
        assert np.abs(result.astype(np.float32) - expected).max() <= 0.05 * np.abs(expected).max()
    if target == "host":
        assert ceiling.measure(place / PROBE, models[1].metadata["target"]["vector_bytes"], 1, 0.001)["u8"] > 0


@pytest.fixture
def two(fake_compiler: Any, tmp_path: Path) -> list[tuple[Path, onnx.ModelProto]]:
    """Two artifacts with the same library and other weights."""
    made = []
    for seed in (0, 1):
        tvm_schedules.build(fake.model(seed=seed), tmp_path / str(seed))
        made.append((tmp_path / str(seed), fake.model(seed=seed)))
    assert (tmp_path / "0" / LIBRARY).read_bytes() == (tmp_path / "1" / LIBRARY).read_bytes()
    return made


def test_equal_structure_and_other_weights(two: list[tuple[Path, onnx.ModelProto]], tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(1, fake.K)).astype(np.float32)
    models = []
    for folder, _ in two:
        shutil.copytree(folder, tmp_path / "place", dirs_exist_ok=True)
        models.append(tvm_schedules.load(tmp_path / "place"))
    for model, (_, network) in zip(models, two, strict=True):
        np.testing.assert_allclose(model(x), fake.reference(x, network), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("check_hashes", [True, False])
def test_an_artifact_that_is_replaced_while_it_is_loaded(
    two: list[tuple[Path, onnx.ModelProto]], check_hashes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata of one and weights of the other are never put together."""
    (first, _), (second, network) = two
    read, times = store.read_metadata, []

    def replaced(*arguments: Any, **options: Any) -> Any:
        metadata = read(*arguments, **options)
        if len(times) == 1:  # the first time is to see which version of the code is loaded
            output_folder._exchange(second, first)
        times.append(1)
        return metadata

    monkeypatch.setattr(store, "read_metadata", replaced)
    x = np.random.default_rng(3).normal(size=(1, fake.K)).astype(np.float32)
    np.testing.assert_allclose(
        tvm_schedules.load(first, check_hashes=check_hashes)(x), fake.reference(x, network), rtol=1e-5, atol=1e-6
    )
    assert len(times) == 4  # twice in each of two tries
    monkeypatch.setattr(store, "stamp", lambda folder: (len(times), times.append(1)))
    with pytest.raises(ArtifactError, match=f"was replaced {runtime.TRIES} times while it was being loaded"):
        tvm_schedules.load(first)
