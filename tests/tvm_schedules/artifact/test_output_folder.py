"""Which outputs may be replaced, decided before anything is compiled, and what lies in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tvm_schedules
from tvm_schedules.artifact import output_folder, store
from tvm_schedules.backends.cpu.files import LIBRARY
from tvm_schedules.errors import OutputError


def artifact(folder: Path) -> Path:
    """As much of an artifact as tells that it is one."""
    folder.mkdir(parents=True)
    (folder / store.METADATA).write_text(json.dumps({"format": store.FORMAT}))
    (folder / LIBRARY).write_bytes(b"old")
    return folder


def replace(output: Any, content: bytes = b"new") -> None:
    with output_folder.replacing(output) as folder:
        (folder / LIBRARY).write_bytes(content)


class NeverRead:
    """A model: that it is read at all is too late."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("the output has to be looked at first")


def test_special_outputs_are_refused_before_the_model_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "to_pipe").symlink_to("pipe")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    cases: dict[Any, str] = {
        tmp_path / "pipe": "is a named pipe; give a directory",
        tmp_path / "to_pipe": "is a named pipe; give a directory",
        tmp_path / "file": "is a file; give a directory",
        tmp_path / "file" / "below": "is not a directory|Not a directory",
        tmp_path / "circle": "symbolic link that leads in a circle|symbolic links",
        tmp_path / "photos": "is not an artifact; it is left alone",
        tmp_path / ("n" * 300): "File name too long",
        os.devnull: "is a device; give a directory",
        "/": "is not an artifact|is a mount point",
    }
    for output, message in cases.items():
        with pytest.raises(OutputError, match=message):
            tvm_schedules.build(NeverRead(), output)
    assert sorted(os.listdir(tmp_path)) == ["circle", "file", "photos", "pipe", "to_pipe"]


def test_the_current_directory_is_not_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty" / "in").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty" / "in")
    with pytest.raises(OutputError, match="is the current directory or holds it"):
        output_folder.check(".")
    replace("out")
    assert Path("out", LIBRARY).read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_mount_points_are_refused(kind: str, tmp_path: Path) -> None:
    """In a name space of its own, where mounting needs no rights of the machine's."""
    (tmp_path / "a b").mkdir()
    (tmp_path / "source").mkdir()
    mount = "mount -t tmpfs none" if kind == "tmpfs" else f"mount --bind '{tmp_path}/source'"
    code = (
        "import sys; from tvm_schedules.artifact import output_folder; from tvm_schedules.errors import OutputError\n"
        "try: output_folder.check(sys.argv[1])\n"
        "except OutputError as error: print(error)"
    )
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    script = f"{mount} '{tmp_path}/a b' || exit 77; exec '{sys.executable}' -c \"$0\" '{tmp_path}/a b'"
    try:
        done = subprocess.run([*unshare, script, code], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare on this machine")
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    assert "is a mount point, which cannot be replaced as a whole; give a directory in it" in done.stdout


@pytest.mark.parametrize("name", ["plain", "a[bc]*?", "with space\nand line", "n" * 240, "-o", ".hidden", "\udcff"])
def test_any_name(name: str, tmp_path: Path) -> None:
    output = artifact(tmp_path / name)
    left = tmp_path / f"{output_folder._temporary_prefix(output)}new-{dead()}-abc"
    left.mkdir()
    (left / "half").write_text("")
    replace(output)
    assert os.listdir(tmp_path) == [name]
    assert (output / LIBRARY).read_bytes() == b"new"


def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_an_output_that_is_a_link_stays_one(tmp_path: Path) -> None:
    artifact(tmp_path / "disk" / "real")
    (tmp_path / "out").symlink_to("disk/real")
    (tmp_path / "fresh").symlink_to("disk/made")
    for name in ("out", "fresh"):
        replace(tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name / LIBRARY).read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path / "disk")) == ["made", "real"]


def test_foreign_files_of_every_kind_stay(tmp_path: Path) -> None:
    out = artifact(tmp_path / "out")
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "data").write_text("not to be copied")
    (out / "bench.json").write_text("{}")
    (out / "bench.json").chmod(0o600)
    (out / "to_big").symlink_to(tmp_path / "big")
    (out / "nowhere").symlink_to("gone")
    os.mkfifo(out / "pipe")
    (out / "notes").mkdir()
    (out / "notes" / "a.txt").write_text("mine")
    os.mkfifo(out / "notes" / "pipe")
    kept = (out / "bench.json").stat()
    replace(out)
    found = (out / "bench.json").stat()
    assert (found.st_ino, found.st_mode, found.st_mtime_ns) == (kept.st_ino, kept.st_mode, kept.st_mtime_ns)
    assert os.readlink(out / "to_big") == str(tmp_path / "big")
    assert os.readlink(out / "nowhere") == "gone"
    assert sorted(os.listdir(out / "notes")) == ["a.txt", "pipe"]
    assert sorted(os.listdir(tmp_path)) == ["big", "out"]


def test_an_onnx_file_alone_does_not_damage_an_artifact(tmp_path: Path) -> None:
    out = artifact(tmp_path / "out")
    with pytest.raises(OutputError, match=r"holds a compiled artifact, which another model\.onnx would damage"):
        output_folder.check(out, whole=False)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    assert output_folder.check(tmp_path / "photos", whole=False) == tmp_path / "photos"
