"""Paths as users mean them, and files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_schedules
from tern_lightning.checkpoint import load_module, read_checkpoint
from tern_lightning.exporter.samples import collect_batches
from tvm_schedules.artifact import load_samples, output_folder
from tvm_schedules.artifact.inspect import inspect
from tvm_schedules.bench import bench
from tvm_schedules.bench.boards import bench_boards
from tvm_schedules.common.files import check_writable, locked, user_path, write_file
from tvm_schedules.errors import OutputError
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.tuner import Database

READERS: dict[str, Callable[[str], Any]] = {
    "load": tvm_schedules.load,
    "load_samples": load_samples,
    "inspect": inspect,
    "bench": bench,
    "bench_boards": lambda path: bench_boards(path, []),
    "read_model": read_model,
    "read_checkpoint": read_checkpoint,
    "load_module": lambda path: load_module(path, None),  # type: ignore[arg-type]
    "samples": lambda path: collect_batches(None, path),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory, and another working directory."""
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


@pytest.mark.parametrize("name", READERS)
def test_readers_look_into_the_home_directory(name: str, home: Path) -> None:
    """What they say of a missing file names the place where they have looked."""
    with pytest.raises(Exception, match=str(home / "gone")):
        READERS[name]("~/gone")


@pytest.mark.parametrize("name", sorted({*READERS} - {"read_model", "samples"}))  # these take more than paths
def test_what_is_no_path_is_refused_by_its_type(name: str) -> None:
    with pytest.raises(
        TypeError, match=r"must be (a path, as text or a pathlib\.Path, got int|a string or a Path, got 7)"
    ):
        READERS[name](7)  # type: ignore[arg-type]


def test_writers_write_to_the_home_directory(home: Path) -> None:
    assert write_file("~/a/b.json", "{}") == home / "a" / "b.json"
    assert (home / "a" / "b.json").read_text() == "{}"
    Database("~/db.json").put("key", {"x": 1})
    assert Database(home / "db.json").get("key") == {"x": 1}
    assert output_folder.check("~/out") == home / "out"
    with output_folder.replacing("~/out") as folder:
        (folder / "model.onnx").write_bytes(b"net")
    assert (home / "out" / "model.onnx").read_bytes() == b"net"
    assert not list(Path.cwd().iterdir())


def test_export_reports_the_place_that_it_wrote(home: Path) -> None:
    import tern_lightning
    from tests.tern_lightning.exporter.export_nets import make_ternary

    torch = pytest.importorskip("torch")
    np.save(home / "x.npy", np.ones((2, 12), np.float32))
    net = make_ternary(torch.nn.Sequential(torch.nn.Linear(12, 4)))
    result = tern_lightning.export(net, "~/out", samples="~/x.npy", onnx_only=True)
    assert (result.output, result.onnx) == (home / "out", home / "out" / "model.onnx")
    assert result.onnx.is_file()
    assert result.calibrated_on_data


@pytest.mark.parametrize(
    ("value", "error"), [("", ValueError), ("a\0b", ValueError), (b"a", TypeError), (3, TypeError)]
)
def test_values_that_are_no_paths(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="output must be a path"):
        user_path(value, "output")


# -- write_file --------------------------------------------------------------------------------------------------------


@pytest.fixture
def umask() -> Any:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_modes(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.json", "1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    write_file(path, "2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert path.read_text() == "2"


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for link, to in (("link", "data/real"), ("second", "link"), ("new", "data/made")):
        (tmp_path / link).symlink_to(to)
    (tmp_path / "data" / "real").write_text("old")
    write_file(tmp_path / "second", "fresh")
    write_file(tmp_path / "new", "made")
    assert (tmp_path / "data" / "real").read_text() == "fresh"
    assert (tmp_path / "data" / "made").read_text() == "made"
    assert all((tmp_path / name).is_symlink() for name in ("link", "second", "new"))
    assert sorted(os.listdir(tmp_path / "data")) == ["made", "real"]


def test_pipes_are_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_file(tmp_path / "pipe", "through")
    reader.join(10)
    assert found == ["through"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    write_file(os.devnull, "gone")


def test_failures_leave_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_file(tmp_path / "a", b"good")
    for name, error in (("fsync", OSError(28, "No space left on device")), ("replace", KeyboardInterrupt())):

        def fail(*_: Any, error: BaseException = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises((OutputError, KeyboardInterrupt), match=r"No space left|^$"):
                write_file(path, b"half")
        assert path.read_bytes() == b"good"
        assert os.listdir(tmp_path) == ["a"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    write_file(tmp_path / "file", "mine")
    (tmp_path / "circle").symlink_to("circle")
    for place in (tmp_path, tmp_path / "file" / "below", tmp_path / "circle", tmp_path / ("n" * 300)):
        with pytest.raises(OutputError, match="cannot write"):
            write_file(place, "x")
        with pytest.raises(OutputError, match="cannot write"):  # and this is known before
            check_writable(place)
    for place in (tmp_path / "file", tmp_path / "new" / "file", Path(os.devnull)):
        check_writable(place)
    assert sorted(os.listdir(tmp_path)) == ["circle", "file"]


def test_a_lock_that_another_process_holds(tmp_path: Path) -> None:
    code = "import sys, time; from tvm_schedules.common.files import locked\n"
    code += "with locked(sys.argv[1]): print('in'); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-uc", code, str(tmp_path / "a")], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(OutputError, match="another process has locked"), locked(tmp_path / "b", 0.1):
            pass
        holder.kill()
    with locked(tmp_path / "b", 5.0):
        pass


@pytest.mark.parametrize("option", ["--json", "--csv", "--plot"])
def test_benchmarks_look_at_their_outputs_first(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvm_schedules.cli.bench import main

    monkeypatch.setattr("tvm_schedules.bench.bench", lambda *_, **__: pytest.fail("measured"))
    (tmp_path / "file").write_text("mine")
    assert main([str(tmp_path), option, str(tmp_path / "file" / "below.png")]) == 1
    assert "cannot write" in capsys.readouterr().err
    monkeypatch.setattr("tvm_schedules.cli.suite._measure", lambda *_: pytest.fail("measured"))
    if option != "--csv":
        assert main(["--suite", option, str(tmp_path / "file" / "below.png")]) == 1
        assert "cannot write" in capsys.readouterr().err
