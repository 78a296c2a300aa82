"""Command line of the inference half: ``tern-bench`` and ``tern-inspect``."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tvm_schedules.errors import TernError, install_hint


def run(action: Callable[[], int]) -> int:
    """Run a command; an expected error becomes one line on the error stream and exit status 1.

    Returns:
        The exit status.
    """
    try:
        return action()
    except TernError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"error: {install_hint(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def write_text(path: str | Path, text: str) -> None:
    """Write a file as a whole or not at all.

    Raises:
        TernError: The file cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise TernError(f"cannot write {target}: {error.strerror or error}") from error
