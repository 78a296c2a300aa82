"""Damage is repeatable, and nothing that a reader may not do stays unseen. (``make fuzz`` runs the readers.)"""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz import mutate, readers, registry, report_readers, run, training_readers
from tests.tvm_schedules.artifact_nets import conv_net

SEEDS = range(60)


@pytest.mark.parametrize("module", ["tests.fuzz.__main__", "tests.fuzz.child"])
def test_programs_know_every_reader(module: str) -> None:
    code = f"import {module}; from tests.fuzz.registry import CASES; print(*CASES, sep=',')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {*done.stdout.strip().split(",")} == registry.CASES.keys()


def test_every_reader_is_there() -> None:
    modules = {readers.__name__, report_readers.__name__, training_readers.__name__}
    assert modules == {make.__module__ for make in registry.READERS.values()}
    assert registry.READERS.keys() == registry.CASES.keys()
    files = {"metadata", "weights", "codes", "onnx", "checkpoint", "samples", "tuner database", "suite"}
    assert files <= {*registry.CASES}
    with pytest.raises(ValueError, match=r"readers are .*metadata, .*; got nothing"):
        run.names(["nothing"], list(registry.CASES))


def test_damage_is_repeatable_and_does_not_touch_what_it_is_made_of() -> None:
    value = {"a": [1, 2, {"b": "text"}], "c": {"d": None}}
    model = conv_net()
    file = io.BytesIO()
    np.savez(file, x=np.zeros((2, 3), np.float32), y=np.ones(5))
    before = json.dumps(value), model.SerializeToString(), file.getvalue()
    makers = (
        lambda r: mutate.damaged_json(value, r),
        lambda r: mutate.damaged_message(model, r),
        lambda r: mutate.damaged_zip(before[2], mutate.damaged_npy, r),
        lambda r: mutate.damaged(before[1], [before[2]], r),
    )
    for make in makers:
        made = [make(random.Random(seed)) for seed in SEEDS]
        assert made == [make(random.Random(seed)) for seed in SEEDS]
        assert len(set(made)) > len(SEEDS) / 2
    assert before == (json.dumps(value), model.SerializeToString(), file.getvalue())


def test_damage_gets_behind_checksums_and_to_deep_nesting() -> None:
    file = io.BytesIO()
    np.savez(file, x=np.zeros((2, 3), np.float32), y=np.ones(5))
    readable = 0
    for seed in SEEDS:
        made = mutate.damaged_zip(file.getvalue(), mutate.damaged_npy, random.Random(seed))
        try:
            with zipfile.ZipFile(io.BytesIO(made)) as entries:
                readable += entries.testzip() is None
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
            continue
    assert readable > len(SEEDS) / 2
    texts = [mutate.damaged_json({"a": [1, {"b": 2}]}, random.Random(seed)) for seed in range(200)]
    assert any(text.count(b"[") > 50_000 for text in texts)
    assert any(b"NaN" in text for text in texts)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("signal", "SIGSEGV"),
        ("foreign", "KeyError"),
        ("memory", "too much memory"),
        ("slow", "took too long"),
        ("silent", "an error without words"),
        ("exit", "exit status 7"),
        ("good", None),
    ],
)
def test_what_no_reader_may_do_is_seen(name: str, outcome: str | None, tmp_path: Path) -> None:
    """The case is named, and the cases behind it are run all the same."""
    report = run.fuzz(name, tmp_path, 0, 6, patience=1.0, module="tests.fuzz.bad_readers")
    lines: list[str] = []
    run.tell(report, lines.append)
    assert report.cases == 6
    assert f"{name}: 6 cases" in lines[0]
    assert [(case, found) for case, found, _ in report.failures] == ([] if outcome is None else [(3, outcome)])


def test_a_process_that_does_not_start_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        run.fuzz("nobody", tmp_path, 0, 5)
