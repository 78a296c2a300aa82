"""Paths that users give, and files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tvm_schedules.errors import OutputError

try:
    import fcntl
except ImportError:  # a system without it
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "alive", "check_writable", "clear_dead", "fresh_folder", "locked", "remove", "temporary_folder", "user_path",
    "write_file",
]  # fmt: skip


def user_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """A path as its user means it: ``~`` and ``~name`` stand for home directories, as in a shell.

    Every public function and command that takes a path passes it through here, so that what is written, read and
    reported is one place.

    Args:
        path: Text or a path object.
        name: The argument, for the message.

    Raises:
        TypeError: Neither of the two.
        ValueError: Empty, or with a null character.

    Example:
        >>> user_path("~/nets/a").is_relative_to(Path.home()), str(user_path("~a file")), str(user_path("b/../c"))
        (True, '~a file', 'b/../c')
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise TypeError(f"{name} must be a path, as text or a pathlib.Path, got {type(path).__name__}")
    text = os.fspath(path)
    if not text or "\0" in text:
        raise ValueError(f"{name} must be a path that is not empty and has no null character, got {text!r}")
    return Path(os.path.expanduser(text))


def write_file(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file so that it is there whole or not at all; an earlier one stays until then.

    A symbolic link stays one, and the file that it leads to is replaced. A new file has the mode that the umask gives,
    an earlier one keeps its own. What is no file, such as a pipe or ``/dev/stdout``, is written to as it is.

    Args:
        path: The file; its directory is made.
        content: Bytes, or text, which is written as UTF-8.

    Returns:
        The path, with ``~`` expanded.

    Raises:
        OutputError: The file system refuses, for example because the disk is full.
    """
    given = user_path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        mode = _mode(given)
        if mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            with given.open("wb") as file:
                file.write(data)
            return given
        target = Path(os.path.realpath(given))
        target.parent.mkdir(parents=True, exist_ok=True)
        with _replacement(target, mode) as file:
            file.write(data)
    except OSError as error:
        raise OutputError(f"cannot write {str(given)!r}: {error.strerror or error}") from error
    return given


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a file that :func:`write_file` could not write, before the work whose result is for it.

    Raises:
        OutputError: It is a directory, or nothing can be written where it is to be.
    """
    given = user_path(path)
    try:
        mode = _mode(given)
        if mode is not None and stat.S_ISDIR(mode):
            raise OutputError(f"cannot write {str(given)!r}: it is a directory")
        if mode is not None and not stat.S_ISREG(mode):
            return
        folder = next(folder for folder in Path(os.path.realpath(given)).parents if folder.exists())
    except OSError as error:
        raise OutputError(f"cannot write {str(given)!r}: {error.strerror or error}") from error
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {str(given)!r}: {str(folder)!r} is not a directory that can be written")


@contextlib.contextmanager
def temporary_folder(kind: str) -> Iterator[Path]:
    """A folder in the system's temporary directory, which is gone when the block ends.

    What earlier processes left of the same kind, because they were killed, is removed first.

    Args:
        kind: What it is for, part of its name.
    """
    place = tempfile.gettempdir()
    clear_dead(place, f"tern-{kind}-")
    with fresh_folder(Path(place) / f"tern-{kind}-{os.getpid()}-{secrets.token_hex(6)}", 0o700) as folder:
        yield folder


@contextlib.contextmanager
def fresh_folder(folder: Path, mode: int = 0o777) -> Iterator[Path]:
    """A folder that nobody else has and that is gone when the block ends, unless it has another name by then.

    A signal that ends the process as an exception may come at any moment: there is none at which the folder is there
    and this does not know of it.

    Args:
        folder: The path that is made.
        mode: Its permissions, less what the umask takes.

    Raises:
        FileExistsError: There is something of that name, which stays.
        OSError: It cannot be made.
    """
    made = True
    try:
        try:
            folder.mkdir(mode)
        except FileExistsError:
            made = False
            raise
        yield folder
    finally:
        if made:
            try:
                remove(folder)
            except BaseException:
                remove(folder)
                raise


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, also while a process that was killed ends its last writing there."""
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.02)


def clear_dead(folder: str | os.PathLike[str], prefix: str) -> None:
    """Remove this user's files and folders of names ``PREFIX PROCESS-...`` whose process is gone."""
    with contextlib.suppress(OSError):  # a directory that may not be listed
        for entry in list(os.scandir(folder)):
            process = entry.name.removeprefix(prefix).partition("-")[0]
            if not entry.name.startswith(prefix) or not process.isdecimal() or alive(int(process)):
                continue
            with contextlib.suppress(OSError):  # somebody else was faster
                if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        os.unlink(entry.path)


def alive(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _mode(path: Path) -> int | None:
    """What a path leads to and its permissions, None where there is nothing yet."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _replacement(target: Path, mode: int | None) -> Iterator[BinaryIO]:
    """An open file beside ``target`` that takes its place when the block ends well, and is gone otherwise."""
    clear_dead(target.parent, ".tern-new-")
    temporary = target.parent / f".tern-new-{os.getpid()}-{secrets.token_hex(6)}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less what the umask takes
    try:
        with os.fdopen(handle, "wb") as file:
            if mode is not None:
                os.fchmod(handle, stat.S_IMODE(mode))
            yield file
            file.flush()
            os.fsync(handle)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], seconds: float = 30.0) -> Iterator[None]:
    """Keep other processes out of blocks about files in one directory, so that what is read is there to be written.

    The directory itself is locked, so that no file is left; a process that dies gives the lock back. File systems that
    know no locks do without.

    Args:
        path: The file, whose directory is made.
        seconds: How long to wait.

    Raises:
        OutputError: The directory cannot be opened, or another process has been in such a block all the time.
    """
    folder = Path(os.path.realpath(user_path(path))).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    try:
        end = time.monotonic() + seconds
        while not _lock(handle):
            if time.monotonic() > end:
                raise OutputError(f"cannot write {str(path)!r}: another process has locked {str(folder)!r}")
            time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open directory; False where another process has."""
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # no locks here
            return True
    return True
