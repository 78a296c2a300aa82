"""What the compiler's process does, here in this one: how a job is handed over, and that a network is read once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tvm_schedules.backends import toy
from tests.tvm_schedules.backends.test_registry import mlp
from tvm_schedules import pipeline
from tvm_schedules.artifact import fill, store
from tvm_schedules.artifact.job import SAMPLES, Job
from tvm_schedules.artifact.samples import load_samples, read_runs, save_samples, write_runs
from tvm_schedules.backends import registry
from tvm_schedules.targets.registry import resolve


def job(folder: Path, **changed: object) -> Job:
    work = folder / store.WORK
    made = Job(str(folder), str(work), "/out", 7, "/", {"A": "b"}, toy.SPEC, False, True, None)
    return replace(made, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", [None, toy.SPEC, resolve("pi4"), resolve("cuda")])
def test_a_job_is_handed_over_as_json(spec: object) -> None:
    made = job(Path("/out"), spec=spec, tuning={"turns": 3, "database": None})
    assert Job.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_network_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its code, for what it says about itself, and to verify it; with the user's samples."""
    monkeypatch.setitem(registry.MODULES, "tests.tvm_schedules.backends.toy", ("toy",))
    read, count = pipeline.read, []
    monkeypatch.setattr(pipeline, "read", lambda model: count.append(model) or read(model))
    (tmp_path / store.MODEL).write_bytes(mlp().SerializeToString())
    (tmp_path / store.WORK).mkdir()
    x = np.random.default_rng(5).normal(size=(3, 2, 12)).astype(np.float32)
    write_runs(tmp_path / store.WORK / SAMPLES, [{"input_0": run} for run in x])
    lines: list[str] = []
    done = fill.run(job(tmp_path, samples=True), lines.append, lambda name, value: pytest.fail(name))
    assert len(count) == 1
    assert done["tuning"] is None
    assert done["report"]["passed"]
    assert done["report"]["runs"] == 3
    assert lines == ["reading the graph", "reference: 3 runs with onnxruntime", "write layers", "verify"]
    assert done["metadata"] == store.read_metadata(tmp_path)
    np.testing.assert_array_equal(np.stack([inputs[0] for inputs in load_samples(tmp_path)[0]]), x)


def test_samples_by_name(tmp_path: Path) -> None:
    runs = [{"b": np.full((2, 3), i, np.float32), "a": np.array([i, -i])} for i in range(4)]
    write_runs(tmp_path / SAMPLES, runs)
    again = read_runs(tmp_path / SAMPLES, ["b", "a"])
    assert [sorted(run) for run in again] == [["a", "b"]] * 4
    for run, wanted in zip(again, runs, strict=True):
        assert all(np.array_equal(run[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(("count", "elements", "kept"), [(3, 10, 3), (20, 10, 8), (5, 1 << 17, 1), (5, 1 << 16, 2)])
def test_few_samples_are_kept_in_an_artifact(tmp_path: Path, count: int, elements: int, kept: int) -> None:
    """Eight, a megabyte of inputs and outputs, but one at least."""
    runs = [{"x": np.full(elements, i, np.float32)} for i in range(count)]
    save_samples(tmp_path, runs, [[run["x"] + 1] for run in runs])
    inputs, outputs = load_samples(tmp_path)
    assert len(inputs) == len(outputs) == kept
    assert [float(array[0][0]) for array in outputs] == [i + 1 for i in range(kept)]
