"""Hints at names that somebody may have meant, wherever a name is not known."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tvm_schedules.bench.networks import build
from tvm_schedules.common.console import reporter
from tvm_schedules.common.near import check_choice, meant
from tvm_schedules.errors import TargetError
from tvm_schedules.targets.registry import resolve


def test_only_near_names_are_named() -> None:
    assert meant("Jetson-Orn", ["jetson-orin", "pi4"]) == "; did you mean 'jetson-orin'?"
    assert meant("zzz", ["jetson-orin", "pi4"]) == ""
    assert meant(None, ["pi4"]) == ""


def test_one_of_a_few() -> None:
    check_choice("form", None, ("int8", None))
    with pytest.raises(
        ValueError, match=r"^form must be 'int8', 'float32' or None, got 'itn8'; did you mean 'int8'\?$"
    ):
        check_choice("form", "itn8", ("int8", "float32", None))


@pytest.mark.parametrize(
    ("ask", "near"), [(lambda: resolve("jetson-orn"), "jetson-orin"), (lambda: build("resnet2", 0.5), "resnet20")]
)
def test_targets_and_networks(ask: Callable[[], Any], near: str) -> None:
    with pytest.raises((ValueError, TargetError), match=f"did you mean '{near}'"):
        ask()


def test_lines_of_progress_go_where_somebody_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("somebody")
    say = reporter(log)
    say("one")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    say("two")
    assert capsys.readouterr().err == "two\n"
    with caplog.at_level(logging.INFO, "somebody"):
        say("three")
    assert capsys.readouterr().err == ""
    assert caplog.messages == ["three"]
