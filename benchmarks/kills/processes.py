"""Processes that are killed: started as forks, waited for, and looked for afterward."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

MARK = "TERN_KILLED"
"""What marks a run, in the environment of all that it starts."""


def forked(action: Callable[[], object], log: Path) -> int:
    """A child process that does something, with its output in a file."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(output, number)
        action()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """A child's exit code, None when it does not end in time."""
    finish = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= finish:
            return None
        time.sleep(0.002)


def wait_while_it_works(child: int, seconds: float) -> int | None:
    """A child's exit code; None when it has computed for so long, or has not computed at all for so long.

    On a machine that does other work too, how long a clock on the wall says that something takes says nothing.
    """
    used, since = 0.0, time.monotonic()
    while (status := wait(child, 1.0)) is None:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        now = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if now >= seconds or (now == used and time.monotonic() - since >= seconds):
            return None
        if now > used:
            used, since = now, time.monotonic()
    return status


class Run:
    """A process that does something.

    Args:
        action: What it does.
        log: Where its output goes.

    Attributes:
        number: Of the process.
        status: Its exit code, None until it is known.
    """

    def __init__(self, action: Callable[[], object], log: Path) -> None:
        self._started = time.monotonic()
        self.number = forked(action, log)
        self.status: int | None = None

    def seconds(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    def ended(self, seconds: float) -> bool:
        """Whether it has ended, or does within so many seconds."""
        if self.status is None:
            self.status = wait(self.number, seconds)
        return self.status is not None

    def give_up(self) -> None:
        """End it by force; its status stays unknown."""
        os.kill(self.number, signal.SIGKILL)
        os.waitpid(self.number, 0)


def offspring(mark: str) -> list[int]:
    """Processes that a marked run has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def described(process: int) -> str:
    """What a process is and what it does: its command, and for each of its threads where in the kernel it waits."""
    place = Path(f"/proc/{process}")
    with contextlib.suppress(OSError):
        command = place.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        status = place.joinpath("status").read_text().splitlines()
        state = [line for line in status if line.startswith(("State", "PPid"))]
        waits = [path.read_text() for path in place.glob("task/*/wchan")]
        return f"{command[-300:]}; {'; '.join(state)}; waits in {', '.join(waits)}"
    return "it is gone by now"
