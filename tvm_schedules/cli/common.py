"""What the command lines share: how a command ends, and arguments that several of them take."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tvm_schedules.common.console import printable
from tvm_schedules.errors import TernError, install_hint

__all__ = ["add_version", "add_waiting", "ended_by_signals", "interpreter", "numbers", "run", "said", "words"]


def add_version(parser: argparse.ArgumentParser) -> None:
    """Adds ``--version``, which prints the versions of this distribution and of what it works with."""
    parser.add_argument("--version", action=_Version, nargs=0, help="show versions and exit")


class _Version(argparse.Action):
    """Looks versions up when they are asked for, not at every start of a command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from tvm_schedules.common.version import __version__, versions

        others = versions("torch", "lightning", "onnx", "onnxruntime", "apache-tvm", "numpy")
        told = ", ".join(f"{name} {number}" for name, number in others.items())
        print(f"tern-lightning {__version__} ({told})")
        parser.exit()


def run(action: Callable[[], int]) -> int:
    """Run a command; an expected error becomes one line on the error stream and exit status 1.

    Returns:
        The exit status.
    """
    try:
        with ended_by_signals():
            return action()
    except TernError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"error: {install_hint(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def said(what: str, path: object) -> None:
    """Say where a file was written, beside what the command prints on standard output."""
    print(f"{what}: {printable(path)}", file=sys.stderr)


def interpreter(engines: Sequence[str]) -> Callable[[str], tuple[str, str]]:
    """Reads ``NAME=PATH/bin/python``, the environment that has one of these engines: name and path."""

    def read(text: str) -> tuple[str, str]:
        name, separator, path = text.partition("=")
        if not separator or name not in engines:
            raise argparse.ArgumentTypeError(f"must be {'|'.join(engines)}=PATH/bin/python, got {text!r}")
        return name, path

    return read


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as an exception does, so that it cleans up behind itself.

    The exit status is what a shell reports for a process that the signal ended. A signal that the caller ignores, as
    ``nohup`` does, stays ignored; a handler of the caller's stays in place.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: Any) -> None:
    for each in (signal.SIGTERM, signal.SIGHUP):  # another one, as `timeout` sends, would end the cleaning up
        if signal.getsignal(each) == _end:
            signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def words(text: str) -> list[str]:
    """The type of an argument that takes names separated by commas.

    >>> words("a,b,"), words("")
    (['a', 'b'], [])
    """
    return [part for part in text.split(",") if part]


def numbers(text: str) -> list[int]:
    """The type of an argument that takes whole numbers separated by commas.

    Raises:
        argparse.ArgumentTypeError: One of them is none.

    >>> numbers("1,8")
    [1, 8]
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers separated by commas, got {text!r}") from None


def add_waiting(add: Callable[..., Any], prefix: str = "") -> None:
    """Adds the options that say how long a board may be silent or busy.

    Args:
        add: ``add_argument`` of a parser or of a group.
        prefix: Put before the options' names, for example ``tune-``.
    """
    from tvm_schedules.remote.protocol import PATIENCE, WAIT

    seconds: dict[str, Any] = {"type": float, "metavar": "SECONDS"}
    silent = "give up a board that says nothing for so long (default: %(default).0f)"
    add(f"--{prefix}timeout", default=PATIENCE, help=silent, **seconds)
    busy = "wait so long for a board that is busy (default: %(default).0f)"
    add(f"--{prefix}wait", default=WAIT, help=busy, **seconds)
