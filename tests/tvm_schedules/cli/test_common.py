"""How commands end, and the arguments that several of them take."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tvm_schedules.cli import bench
from tvm_schedules.cli.common import add_waiting, numbers, run, words
from tvm_schedules.errors import BenchError


def _raising(error: BaseException) -> int:
    def action() -> int:
        raise error

    return run(action)


def test_expected_errors_become_a_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: 7) == 7
    assert _raising(BenchError("no\x1b[2J board")) == 1
    assert capsys.readouterr().err == "error: no\\x1b[2J board\n"
    assert _raising(ModuleNotFoundError("No module named 'rich'", name="rich")) == 1
    assert "pip install" in capsys.readouterr().err
    assert _raising(KeyboardInterrupt()) == 130


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        _raising(ZeroDivisionError())


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = "from tvm_schedules.cli.common import run\nraise SystemExit(run(lambda: print('x' * 10**6) or 0))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 10)
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")


def test_lists_are_separated_by_commas() -> None:
    assert numbers("1,2,8") == [1, 2, 8]
    assert words("mlp,,resnet20") == ["mlp", "resnet20"]
    for text in ("", "1,", "1;2", "two"):
        with pytest.raises(argparse.ArgumentTypeError, match="numbers separated by commas"):
            numbers(text)


def test_waiting_for_boards_has_the_same_defaults_everywhere() -> None:
    parser = argparse.ArgumentParser()
    add_waiting(parser.add_argument, "tune-")
    given = parser.parse_args(["--tune-wait", "2.5"])
    own = bench.parser().parse_args(["artifact"])
    assert (given.tune_timeout, given.tune_wait) == (own.timeout, 2.5)
    assert (own.timeout, own.wait) == (120.0, 60.0)


@pytest.mark.parametrize(
    "module",
    ["tern_lightning.cli.export", "tvm_schedules.cli.bench", "tvm_schedules.cli.board", "tvm_schedules.cli.inspect"],
)
def test_every_command_tells_its_version(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(module).main
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    stated = re.search(r'^version = "(.*)"$', project, re.MULTILINE)
    assert stated is not None
    told = capsys.readouterr().out
    assert told.startswith(f"tern-lightning {stated[1]} (")
    assert f"numpy {np.__version__}" in told
