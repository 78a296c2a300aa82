"""What a killed process leaves is removed by the next one, and nothing else is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tvm_schedules.artifact import output_folder
from tvm_schedules.common.files import fresh_folder, temporary_folder, write_file
from tvm_schedules.errors import OutputError

KILLED = """
import os, signal
from tvm_schedules.common.files import temporary_folder, _replacement
from pathlib import Path
with temporary_folder("bench") as folder, _replacement(Path("out.json"), None) as file:
    (folder / "file").write_text("x")
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which a process was killed while it wrote."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert sorted(path.name[:10] for path in tmp_path.iterdir()) == [".tern-new-", "tern-bench"]
    return tmp_path


def test_killed_processes_files_go(left: Path) -> None:
    with temporary_folder("bench") as folder:
        assert [path for path in left.iterdir() if path.is_dir()] == [folder]
    write_file(left / "out.json", "whole")
    assert {path.name: path.read_text() for path in left.iterdir()} == {"out.json": "whole"}


def test_others_stay(left: Path) -> None:
    kept = {f"tern-bench-{os.getppid()}-x", f"tern-tune-{2**22 + 1}-x", "tern-bench-x", "tern-bench-\u00b2-x"}
    for name in kept:
        (left / name).mkdir()
    (left / "elsewhere").mkdir()
    (left / "elsewhere" / "file").write_text("kept")
    (left / f"tern-bench-{2**22 + 1}-link").symlink_to(left / "elsewhere")
    with temporary_folder("bench"), temporary_folder("bench"):
        pass
    assert {path.name for path in left.iterdir() if path.is_dir()} == {*kept, "elsewhere"}
    assert (left / "elsewhere" / "file").read_text() == "kept"


def _interrupted(at: int, action: Callable[[], None]) -> bool:
    """Run something that ends by an exception where Python handles signals: at the beginning of a function, or when one
    of C returns. False when it is over before."""
    seen = -1

    def event(frame: Any, kind: str, argument: Any) -> None:
        nonlocal seen
        seen += kind in ("call", "c_return")
        if seen == at and kind in ("call", "c_return"):
            raise SystemExit

    # An exception between closing a file and noting that makes the standard library close it twice.
    with contextlib.suppress(SystemExit, OSError, OutputError):
        sys.setprofile(event)
        try:
            action()
        finally:
            sys.setprofile(None)
    return seen >= at


FOLDERS: dict[str, Callable[[Path], AbstractContextManager[Path]]] = {
    "fresh": lambda place: fresh_folder(place / "fresh"),
    "temporary": lambda place: temporary_folder("bench"),
    "artifact": lambda place: output_folder.replacing(place / "out"),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where an exception ends nothing
@pytest.mark.parametrize("kind", FOLDERS)
def test_signal_at_any_moment_leaves_no_folder(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fill() -> None:
        with FOLDERS[kind](tmp_path) as folder:
            (folder / "model.onnx").write_bytes(b"x")

    moments = 0
    while _interrupted(moments, fill):
        left = [path.name for path in tmp_path.iterdir() if path.name != "out"]
        assert not left, f"at moment {moments}: {left}"
        moments += 1
    assert moments > 20


TWICE = """
import os, signal, sys, time
from tvm_schedules.cli.common import ended_by_signals
with ended_by_signals():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        print("cleaned", flush=True)
"""


def test_second_signal_does_not_end_the_cleaning_up() -> None:
    """``timeout`` sends two: one to the process, one to its group."""
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.returncode) == ("cleaned\n", 128 + signal.SIGTERM)
