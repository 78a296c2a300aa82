"""The compiler runs in a process of its own, so that nothing it does can end the user's.

LLVM ends its process when the disk is full, and a library that is wrong may do so while it is verified. The child
(:mod:`.child`) gets a job over its input and sends messages over its output, a line of JSON each. It keeps its
temporary files in the directory that it fills, belongs to a session of its own, so that Ctrl-C reaches only its parent,
and removes what it has written when the parent is gone. Importing TVM takes seconds: a child is started as early as
possible (:func:`prepare`), and waits for another job for :data:`.child.IDLE` seconds when it is done.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tvm_schedules import errors
from tvm_schedules.errors import CompilerError, TernError

__all__ = ["START", "Compiler", "compiler", "prepare"]

START = (
    "import sys; sys.path[:] = sys.argv[2:]; "  # as in the parent
    "from tvm_schedules.artifact.child import main; main(int(sys.argv[1]))"
)
"""What the child runs. No file of the user's is run again, so that none needs ``if __name__ == "__main__"``."""

_WORDS, _SIZE = 40, 1 << 16
_idle: dict[str, Compiler] = {}
_lock = threading.Lock()


class Compiler:
    """A child process, busy with one job at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", START, str(os.getpid()), *map(str, sys.path)]
        options: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        try:
            # Pipes without buffers, whose locks a fork would take along.
            self._process = subprocess.Popen(command, bufsize=0, start_new_session=True, **options)
        except OSError as error:
            raise CompilerError(f"the compiler's process cannot be started: {error.strerror or error}") from error
        self.start, self.ready, self._rest = START, True, b""
        self._words: deque[str] = deque(maxlen=_WORDS)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """Keep the last lines that the child prints, whose own pipe must not fill."""
        assert self._process.stderr is not None
        rest = b""
        with contextlib.suppress(ValueError, OSError):  # closed meanwhile
            while data := os.read(self._process.stderr.fileno(), _SIZE):
                *lines, rest = (rest + data).split(b"\n")
                self._words.extend(line.decode(errors="replace") for line in lines)
        self._words.append(rest.decode(errors="replace"))

    def watch(self, output: str) -> None:
        """Let the child remove what this process leaves of an output, see :func:`prepare`.

        Raises:
            OSError: The child has ended.
        """
        self._send({"watch": {"output": output, "parent": os.getpid()}})

    def accepts(self, job: Mapping[str, Any]) -> bool:
        """Hand over a job; False when the process has ended, as one does that was idle for long."""
        self.ready = False
        try:
            self._send({"job": job})
            return self._receive() is not None
        except OSError:
            return False

    def result(self, say: Callable[[str], None], answers: Mapping[str, Callable[[Any], Any]]) -> Any:
        """Wait for the end of the job.

        Args:
            say: Called with the child's lines of progress.
            answers: Functions that the child may call, by name, with JSON values.

        Raises:
            TernError: As the child raised it.
            CompilerError: The child ended, or met an error that nobody has thought of.
        """
        while True:
            message = self._receive()
            if message is None:
                raise CompilerError(self._epitaph())
            (kind, content) = next(iter(message.items()))
            if kind == "say":
                say(content)
            elif kind == "ask":
                self._send({"answer": answers[content["name"]](content["value"])})
            else:
                self.ready = True
                if kind == "error":
                    raise _error(content)
                return content

    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process and what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join(1)
        self.forget()

    def forget(self) -> None:
        """Close the pipes to it."""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._process.stdin.fileno(), data) :]

    def _receive(self) -> dict[str, Any] | None:
        """The next message; None when there are no more."""
        assert self._process.stdout is not None
        parts = [self._rest]
        while b"\n" not in parts[-1]:
            parts.append(os.read(self._process.stdout.fileno(), _SIZE))
            if not parts[-1]:
                return None
        line, _, self._rest = b"".join(parts).partition(b"\n")
        return json.loads(line)

    def _epitaph(self) -> str:
        """What to say of a child that has ended in the middle of its job."""
        code = self._process.wait()
        self._listener.join(1)
        how = f"with status {code}"
        if code < 0:
            how = f"by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += ", as when the system has no memory left"
        lines = [line.strip() for line in self._words if line.strip()]
        said = next((line for line in lines if "ERROR" in line or "rror:" in line), lines[-1] if lines else "")
        words = f"; its last words: {said[:300]}" if said else ""
        return f"the compiler's process ended {how}, nothing was changed{words}"


class _RemoteError(Exception):
    """The child's traceback, as the cause of an error here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _error(content: Mapping[str, Any]) -> BaseException:
    """The child's exception, with its traceback as the cause where the message alone does not explain it."""
    kind, text = content["type"], content["text"]
    known = getattr(errors, kind, None)
    error: BaseException
    if isinstance(known, type) and issubclass(known, TernError):
        return known(text)  # it says all there is to say
    elif content["errno"] is not None:
        error = OSError(content["errno"], text)
    elif content["module"] is not None:
        error = ModuleNotFoundError(text, name=content["module"])
    elif kind == "MemoryError":
        error = CompilerError("the compiler had not enough memory")
    else:
        last = (text.strip().splitlines() or [""])[-1]
        error = CompilerError(f"the compiler failed, which is a fault of this package: {kind}: {last}")
    error.__cause__ = _RemoteError(content["trace"])
    return error


def prepare(output: str | None = None) -> None:
    """Start a child, if none waits already, that imports TVM while something else is done here.

    Args:
        output: The artifact that comes next, without symbolic links: if this process is killed, the child removes what
            it has left of that, also before there is a job.
    """
    with _lock, contextlib.suppress(CompilerError, OSError):  # the one who needs it meets the error
        if START not in _idle or not _idle[START].alive():
            _idle[START] = Compiler()
        if output is not None:
            _idle[START].watch(output)


@contextlib.contextmanager
def compiler(job: Mapping[str, Any], keep: bool = True) -> Iterator[Compiler]:
    """A child that has taken a job. It is killed when the block is left before the job's end.

    Args:
        job: What to do, see :mod:`.child`.
        keep: Let the process wait for another job afterward.

    Raises:
        CompilerError: No process can be started, or it dies at once.
    """
    with _lock:
        found = _idle.pop(START, None)
    made = found or Compiler()
    try:
        if not made.accepts(job):
            made.kill()
            if found is None:
                raise CompilerError(made._epitaph())
            made = Compiler()
            if not made.accepts(job):
                raise CompilerError(made._epitaph())
        yield made
    finally:
        with _lock:
            kept = keep and made.ready and _idle.setdefault(made.start, made) is made
        if not kept:
            made.kill()


def _kill_idle() -> None:
    while _idle:
        _idle.popitem()[1].kill()


def _forget_idle() -> None:
    """After a fork the children are the parent's, which they have to notice the end of."""
    while _idle:
        _idle.popitem()[1].forget()


atexit.register(_kill_idle)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_idle)
