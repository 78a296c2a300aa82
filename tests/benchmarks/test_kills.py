"""How long a process of a killed run is waited for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from benchmarks.kills.__main__ import wait_while_it_works


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
