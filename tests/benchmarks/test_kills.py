"""How long a process of a killed run is waited for, and when a run is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.kills.moments import between, changes
from benchmarks.kills.processes import wait_while_it_works


def child(action: Callable[[], object]) -> int:
    number = os.fork()
    if not number:
        action()
        os._exit(3)
    return number


def compute() -> None:
    while True:
        pass


def test_the_exit_code_of_a_process_that_ends() -> None:
    assert wait_while_it_works(child(lambda: time.sleep(0.1)), 30) == 3


@pytest.mark.parametrize("action", [compute, lambda: time.sleep(600)], ids=["computes", "sleeps"])
def test_who_does_not_end_is_given_up(action: Callable[[], object]) -> None:
    number = child(action)
    assert wait_while_it_works(number, 0.5) is None
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)


def test_a_run_is_followed_by_the_changes_of_its_files(tmp_path: Path) -> None:
    """New files, longer ones, other names, other content of equal length, folders and what is gone."""
    (tmp_path / "there").write_text("1")
    steps: list[Callable[[], object]] = [
        lambda: (tmp_path / "new").write_text(""),
        lambda: (tmp_path / "there").write_text("2"),
        lambda: (tmp_path / "new").rename(tmp_path / "newer"),
        lambda: (tmp_path / "folder" / "inner").mkdir(parents=True),
        lambda: (tmp_path / "folder" / "inner" / "file").write_text("12"),
        lambda: (tmp_path / "newer").unlink(),
    ]
    left = list(steps)

    def ended(seconds: float) -> bool:
        time.sleep(0.02)
        if left:
            left.pop(0)()
        return not left

    times = changes(tmp_path, ended)
    assert len(times) == len(steps)
    assert times == sorted(times)
    assert times[0] >= 0.02
    assert times[-1] >= 0.12
    left[:] = [lambda: (tmp_path / "again").touch(), lambda: None, lambda: (tmp_path / "more").touch(), lambda: None]
    assert len(changes(tmp_path, ended, 2)) == 2
    assert len(left) == 1, "it is followed no further than was asked for"


def test_moments_lie_in_their_gap_however_fast_a_run_is() -> None:
    times = [2.0, 2.5, 8.0]
    assert between(times, 0, 0.25).delay(0.001) == 0.5
    assert between(times, 1, 0.5).delay(2.0) == 0.25
    assert between(times, 1, 0.5).delay(4.0) == 0.5, "a run that takes twice as long"
    assert between(times, 2, 0.1).delay(2.5) == pytest.approx(0.55)
    assert between(times, 2, 0.1).delay(1e9) == pytest.approx(5.5), "one that was held up is not waited for for ever"
