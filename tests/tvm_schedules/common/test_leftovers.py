"""What a killed process leaves is removed by the next one, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_schedules.common.files import temporary_folder, write_file

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
