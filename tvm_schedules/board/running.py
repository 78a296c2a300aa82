"""A session's process as the server sees it: how it starts, what ends it, what is left of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm_schedules.board import session
from tvm_schedules.common.files import clear_dead
from tvm_schedules.engines.worker import end_with

LOOK_SECONDS = 30.0
"""How often a session is looked at whether it does anything."""


class Running:
    """A session in a child process.

    Args:
        connection: The client, who has been welcomed.
        peer: The client's address.
        limit: Seconds after which it ends.
        idle: Seconds after which it ends when its processes use no time of a CPU.
        others: What the server has open and the session must not hold.

    Attributes:
        ended: A file that is ready to be read when the session has ended.
        started: When it started, by ``time.monotonic``.

    Raises:
        OSError: The system has no room for another process or folder.
    """

    def __init__(
        self, connection: socket.socket, peer: str, limit: float, idle: float, others: Sequence[Any] = ()
    ) -> None:
        self.peer, self._limit, self._idle = peer, limit, idle
        clear_dead(tempfile.gettempdir(), "tern-board-")
        self._folder = Path(tempfile.mkdtemp(prefix=f"tern-board-{os.getpid()}-"))
        self.ended, alive = os.pipe()
        sys.stdout.flush()
        server = os.getpid()
        try:
            self._child = os.fork()
        except OSError:
            os.close(self.ended)
            os.close(alive)
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        if self._child == 0:
            os.close(self.ended)
            _be_session(connection, self._folder, others, server)
        with contextlib.suppress(OSError):  # the child may have been faster, or be gone
            os.setpgid(self._child, self._child)
        os.close(alive)  # the child holds the only other end: the pipe ends when it does
        self.started = self._active = time.monotonic()
        self._looked, self._used = self.started, 0.0
        self._why = ""

    @property
    def due(self) -> float:
        """When it has to be looked at again."""
        return min(self.started + self._limit, self._looked + min(LOOK_SECONDS, self._idle / 2))

    def over(self, now: float) -> bool:
        """Whether its time is over, or it does nothing."""
        if now >= self.started + self._limit:
            self._why = f"was stopped at its limit of {self._limit:g} s"
        elif now >= self.due:
            self._looked, used = now, processor_time(self._child)
            # A process that only waits for its client is woken now and then, which takes less than that.
            if used is None or used > self._used + 0.02:
                self._used, self._active = used or 0.0, now
            elif now >= self._active + self._idle:
                self._why = f"was stopped: nothing happened for {self._idle:g} s"
        return bool(self._why)

    def end(self) -> str:
        """Kill the session's process and those that it started, remove its folder; how it ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        os.close(self.ended)
        shutil.rmtree(self._folder, ignore_errors=True)
        return self._why or ("ended" if status == 0 else f"crashed ({_reason(status)})")


def processor_time(group: int) -> float | None:
    """Seconds that the processes of a group and their ended children have used; None where the system does not say."""
    found = None
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it is gone
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                found = (found or 0.0) + sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return found


def _be_session(connection: socket.socket, folder: Path, others: Sequence[Any], server: int) -> None:
    """The child's life; does not return."""
    status = 1
    try:
        os.setpgid(0, 0)
        end_with(server)  # a killed server leaves no session that holds its port
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for other in others:
            other.close()
        session.run(connection.fileno(), folder)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _reason(status: int) -> str:
    """How a process ended, from its exit code."""
    if status == -signal.SIGILL:
        return "illegal instruction: the library was built for another CPU"
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
