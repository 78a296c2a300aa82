"""The runner of ``examples/cpp`` on this machine, under the sanitizers: right numbers; damaged files are refused."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tvm_schedules
from tests.tvm_schedules import artifact_nets
from tvm_schedules.artifact import load_samples

SOURCE = Path(__file__).resolve().parents[2] / "examples" / "cpp"
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux"),
    pytest.mark.skipif(shutil.which("g++") is None or shutil.which("make") is None, reason="needs g++ and make"),
]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cpp")
    for path in SOURCE.iterdir():
        if path.is_file():
            shutil.copy2(path, folder)
    command = ["make", f"PYTHON={sys.executable}", "STRIP=true", f"CXXFLAGS=-O0 -Wall -Werror {SANITIZE}"]
    command += ["BIN=bin", "bin/tern-run"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder / "bin" / "tern-run"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    tvm_schedules.build(artifact_nets.exact_net(), folder / "artifact")
    runpy.run_path(str(SOURCE / "pack.py"))["pack"](folder / "artifact", folder / "out")
    return folder


def run(runner: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # What LLVM's code and TVM's threads leave to the system at the end is no leak of the runner.
    options = {"ASAN_OPTIONS": "detect_leaks=0", "LD_LIBRARY_PATH": str(runner.parent)}
    return subprocess.run([str(runner), str(folder), *arguments], capture_output=True, text=True, env=options)


def test_numbers_are_onnxruntimes(runner: Path, packed: Path) -> None:
    done = run(runner, packed / "out", "2", "2")
    assert done.returncode == 0, done.stderr
    _, expected = load_samples(packed / "artifact")
    found = np.fromfile(packed / "out" / "output0.bin", np.float32).reshape(expected[0][0].shape)
    np.testing.assert_allclose(found, expected[0][0], rtol=1e-5, atol=1e-6)
    assert re.search(r"median .* us", done.stdout)


PLAN = {
    "negative size": (r"^(input \w+) \d+", r"\1 -1"),
    "zero size": (r"^(output \w+) \d+", r"\1 0"),
    "sizes whose product overflows": (r"^(input \w+) .*", r"\1 4294967296 4294967296 4294967296"),
    "size that is no number": (r"^(input \w+) \d+", r"\1 1x"),
    "negative arena": (r"^arena .*", "arena -64"),
    "huge arena": (r"^arena .*", "arena 99999999999999999999"),
    "negative constants": (r"^constants .*", "constants -1"),
    "other constants": (r"^constants .*", "constants 64"),
    "negative steps": (r"^steps .*", "steps -1"),
    "unknown type": (r"^input \w+", "input complex64"),
    "no input": (r"^input .*\n", ""),
    "no output": (r"^output .*\n", ""),
    "no arena": (r"^arena .*\n", ""),
    "words": (r"^steps .*", "steps many"),
}


@pytest.mark.parametrize("damage", PLAN)
def test_damaged_plans_are_refused(runner: Path, packed: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(packed / "out", tmp_path / "out")
    plan = tmp_path / "out" / "plan.txt"
    text = re.sub(*PLAN[damage], plan.read_text(), flags=re.MULTILINE)
    assert text != plan.read_text()
    plan.write_text(text)
    done = run(runner, tmp_path / "out")
    assert done.returncode == 1, (done.returncode, done.stderr[-2000:])
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("name", ["plan.txt", "constants.bin", "input0.bin", "model.so"])
def test_truncated_and_missing_files_are_refused(runner: Path, packed: Path, tmp_path: Path, name: str) -> None:
    for keep in (None, 0, 7):
        folder = tmp_path / str(keep)
        shutil.copytree(packed / "out", folder)
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        if keep is not None:
            (folder / name).write_bytes(data[:keep])
        done = run(runner, folder)
        assert done.returncode == 1, (keep, done.returncode, done.stderr[-2000:])
        assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("arguments", [["-1"], ["x"], ["2", "0"], ["2", "-3"], ["2", "99999999999"]])
def test_arguments(runner: Path, packed: Path, arguments: list[str]) -> None:
    done = run(runner, packed / "out", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "must be a number in" in done.stderr
