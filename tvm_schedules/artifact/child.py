"""What runs in the compiler's process (:mod:`.process`): takes jobs, sends messages, cleans up behind its parent."""

from __future__ import annotations

import contextlib
import importlib.abc
import json
import os
import queue
import select
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any

__all__ = ["IDLE", "main"]

IDLE = 60.0
"""Seconds that the process waits for another job."""

LOOK = 1.0
"""Seconds after which the process looks whether its parent is there, when it has heard nothing."""


class _Channel:
    """Messages from and to the parent."""

    def __init__(self, parent: int) -> None:
        # The first output is for messages alone; what libraries print goes to the second one.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._in: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.files: tuple[Path, int] | None = None
        self._parent = parent
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        rest = b""
        while data := self._heard():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if files := message.get("watch") or message.get("job"):  # also while this process still imports TVM
                    self.files = Path(files["output"]), files["parent"]
                if "watch" not in message:
                    self._in.put(message)
        self._abandoned()

    def _heard(self) -> bytes:
        """What the parent says, nothing when it is gone; its end of the pipe may live on in a process it has forked."""
        while not select.select([0], [], [], LOOK)[0]:
            if os.getppid() != self._parent:
                return b""
        return os.read(0, 1 << 16)

    def _abandoned(self) -> None:
        """The parent is gone: remove what was half done, and end with all that was started here."""
        if self.files is not None:
            with contextlib.suppress(Exception):
                from tvm_schedules.artifact.output_folder import clear_leftovers

                clear_leftovers(*self.files)
        os.killpg(0, signal.SIGKILL)

    def next(self, timeout: float | None = None) -> dict[str, Any]:
        """The next message of the parent.

        Raises:
            queue.Empty: None came in so many seconds.
        """
        return self._in.get(timeout=timeout)

    def send(self, kind: str, content: Any) -> None:
        """Send a message."""
        self._out.write(json.dumps({kind: content}) + "\n")
        self._out.flush()

    def say(self, line: str) -> None:
        """Send a line of progress."""
        self.send("say", line)

    def ask(self, name: str, value: Any) -> Any:
        """Let the parent do something."""
        self.send("ask", {"name": name, "value": value})
        return self.next()["answer"]


def main(parent: int) -> None:
    """Serve the parent, a process's number, until it is gone, or has had no job for :data:`IDLE` seconds."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the parent, whose end is the end of this one
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    channel = _Channel(parent)
    _warm()
    while True:
        try:
            message = channel.next(IDLE)
        except queue.Empty:
            os._exit(0)  # the thread that reads would be in the way of another end
        _serve(channel, message["job"])


class _WithoutTorch(importlib.abc.MetaPathFinder):
    """Where PyTorch is installed TVM imports it, which takes as long as TVM and is of no use here."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        """See :class:`importlib.abc.MetaPathFinder`.

        Raises:
            ModuleNotFoundError: For PyTorch.
        """
        if name == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _warm() -> None:
    """Import what takes long."""
    sys.meta_path.insert(0, _WithoutTorch())
    with contextlib.suppress(Exception):  # met again by the job that needs it, which reports it
        import tvm  # noqa: F401

        import tvm_schedules.backends.cpu.compile
        import tvm_schedules.backends.cpu.lower
        import tvm_schedules.verify.outputs  # noqa: F401


def _serve(channel: _Channel, job: dict[str, Any]) -> None:
    """Do a job. Its files are watched until the next one: the parent may end before they are in their place."""
    channel.send("accepted", True)
    try:
        result = _work(channel, job)
    except BaseException as error:
        channel.send("error", _told(error))
    else:
        channel.send("done", result)


def _told(error: BaseException) -> dict[str, Any]:
    """An exception in JSON types."""
    number = error.errno if isinstance(error, OSError) else None
    return {
        "type": type(error).__name__,
        "text": str(error) if number is None else str(getattr(error, "strerror", None) or error),
        "errno": number,
        "module": error.name if isinstance(error, ModuleNotFoundError) else None,
        "trace": "".join(traceback.format_exception(error)),
    }


def _work(channel: _Channel, message: dict[str, Any]) -> dict[str, Any]:
    """Do a job as the parent would: with its environment and in its directory."""
    from tvm_schedules.artifact import fill
    from tvm_schedules.artifact.job import Job

    job = Job.from_json(message)
    os.environ.clear()
    os.environ.update({**job.environ, "TMPDIR": job.work})
    tempfile.tempdir = job.work
    with contextlib.suppress(OSError):
        os.chdir(job.directory)
    result = fill.run(job, channel.say, channel.ask)
    tempfile.tempdir = None
    shutil.rmtree(job.work, ignore_errors=True)
    return result
