"""A server in a process group of its own, for tests."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def gone(process: int, seconds: float = 20.0) -> bool:
    """Whether a process ends in so many seconds; it counts as ended when nobody has asked for its status yet."""
    finish = time.monotonic() + seconds
    while time.monotonic() < finish:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def children(process: int) -> list[int]:
    """Numbers of the processes that a process has started."""
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


class Process:
    """Runs a command that prints ``... at HOST:PORT``; a context manager that ends it with all its children."""

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None, seconds: float = 60) -> None:
        self._output = tempfile.NamedTemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._seconds = seconds
        self.process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )

    def __enter__(self) -> Process:
        self.address = self.wait_for(r"at (\S+:\d+)")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._output.close()

    def text(self) -> str:
        """Everything printed so far."""
        return Path(self._output.name).read_text()

    def wait_for(self, pattern: str) -> str:
        """The last group of the first match of ``pattern`` in the output."""
        finish = time.monotonic() + self._seconds
        while time.monotonic() < finish and self.process.poll() is None:
            found = re.search(pattern, self.text())
            if found:
                return found.group(found.lastindex or 0)
            time.sleep(0.05)
        self.__exit__()
        raise AssertionError(f"no {pattern!r} in the output")

    def children(self) -> list[int]:
        """Process numbers of its children."""
        return children(self.process.pid)
