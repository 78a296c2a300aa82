"""Models that are copied, and sent to other processes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_schedules
from tests.tvm_schedules import fake
from tests.tvm_schedules.artifact_nets import conv_net
from tests.tvm_schedules.compiling import compile_model
from tvm_schedules.backends.cpu.runtime import CpuModel
from tvm_schedules.errors import ArtifactError, DeviceError
from tvm_schedules.packing.registry import expand
from tvm_schedules.targets.registry import resolve

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def images(count: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 16, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("target", ["host", "c", "opencl"])
def test_copies_compute_the_same(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tvm_schedules.build(conv_net(size=6), tmp_path / "out", target)
    monkeypatch.chdir(tmp_path)
    try:
        model = tvm_schedules.load("out", threads=2)
    except DeviceError as error:
        pytest.skip(str(error))
    expected, found = model(images()), {}
    monkeypatch.chdir("/")
    for name, make in COPIES.items():
        other = found[name] = make(model)
        assert type(other) is type(model)
        assert (other.threads, other.source, repr(other)) == (model.threads, tmp_path / "out", repr(model))
        np.testing.assert_array_equal(other(images()), expected)
    del model
    np.testing.assert_array_equal(copy.deepcopy(found["copy"])(images()), expected)


def test_other_processes(tmp_path: Path) -> None:
    tvm_schedules.build(conv_net(size=6), tmp_path / "out")
    model = tvm_schedules.load(tmp_path / "out", threads=1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        results = pool.map(model, [images(), images(3)])
    np.testing.assert_array_equal(results[0], model(images()))
    np.testing.assert_array_equal(results[1], model(images(3)))


def test_copies_run_at_the_same_time(fake_compiler: Any, tmp_path: Path) -> None:
    """They have memory of their own, and the same weights."""
    model = tvm_schedules.build(fake.model(), tmp_path / "out").load()
    other = copy.copy(model)
    assert np.shares_memory(model._constants, other._constants)
    x = np.random.default_rng(0).normal(size=(1, fake.K)).astype(np.float32)
    inside, done = threading.Event(), threading.Event()
    function = model._function

    def waits(*arguments: Any) -> None:
        inside.set()
        assert done.wait(10)
        function(*arguments)

    model._function = waits
    results: list[np.ndarray] = []
    caller = threading.Thread(target=lambda: results.append(model(x)))
    caller.start()
    assert inside.wait(10)
    np.testing.assert_allclose(other(-x), fake.reference(-x, fake.model()), rtol=1e-5, atol=1e-6)
    done.set()
    caller.join()
    np.testing.assert_allclose(results[0], fake.reference(x, fake.model()), rtol=1e-5, atol=1e-6)


def test_another_artifact_in_the_place(fake_compiler: Any, tmp_path: Path) -> None:
    model = tvm_schedules.build(fake.model(), tmp_path / "out").load()
    kept = pickle.dumps(model)
    tvm_schedules.build(fake.model(seed=1), tmp_path / "out")
    with pytest.raises(ArtifactError, match="holds another artifact by now"):
        pickle.loads(kept)
    x = np.ones((1, fake.K), np.float32)
    np.testing.assert_array_equal(copy.deepcopy(model)(x), model(x))  # needs no file


def test_a_model_without_an_artifact() -> None:
    compiled = compile_model(conv_net(size=6), resolve("host"))
    model = CpuModel(
        compiled.plan, compiled.module, expand(compiled.plan.constants, compiled.plan.constant_bytes, compiled.arrays)
    )
    with pytest.raises(TypeError, match="was not loaded from an artifact, so that it cannot be pickled"):
        pickle.dumps(model)
    np.testing.assert_array_equal(copy.copy(model)(images()), model(images()))
