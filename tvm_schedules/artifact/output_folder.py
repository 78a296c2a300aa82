"""Puts an artifact in its place, so that a failure costs nothing.

A new directory is built beside its final place, flushed to the disk, and exchanged with the old one in a single system
call (``renameat2(RENAME_EXCHANGE)``, Linux 3.15) where the system has it, in two renames elsewhere. Whatever happens
before that moment, an earlier artifact stays as it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from tvm_schedules.artifact.store import FORMAT, METADATA, MODEL, SAMPLES, WEIGHTS, has_file, is_part, parts
from tvm_schedules.backends import registry
from tvm_schedules.common.files import alive, fresh_folder, user_path
from tvm_schedules.errors import OutputError


def check(output: str | os.PathLike[str], whole: bool = True) -> Path:
    """Decide whether an output may be written, before any work is done for it; nothing is changed.

    Args:
        output: The directory to make.
        whole: Whether it is replaced as a whole; otherwise only the network's ONNX file in it is.

    Returns:
        The path, with ``~`` expanded.

    Raises:
        OutputError: It is no directory, holds something that is not ours, cannot be replaced or cannot be written.
    """
    path = user_path(output, "output")
    said = f"output {str(path)!r}"
    try:
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise OutputError(f"{said} is a symbolic link that leads in a circle")
        if target.exists() and not target.is_dir():
            raise OutputError(f"{said} is {_kind(target)}; give a directory")
        if target.is_dir():
            _check_present(target, said, whole)
        folder = next(
            p for p in ((target.parent, *target.parents) if whole else (target, *target.parents)) if p.exists()
        )
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{said} cannot be made: {str(folder)!r} is not a directory that can be written")
    except OSError as error:
        raise OutputError(f"{said} cannot be used: {error.strerror or error}") from error
    return path


def _kind(path: Path) -> str:
    """What a path that is no directory leads to."""
    mode = path.stat().st_mode
    kinds = ((stat.S_ISREG, "a file"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


def _check_present(target: Path, said: str, whole: bool) -> None:
    """Refuse a directory that cannot be exchanged, or that holds anything but what an export has left.

    Raises:
        OutputError: With the reason.
    """
    names = {entry.name for entry in target.iterdir()}
    compiled = _is_artifact(target)
    if not whole:
        if compiled and any(map(registry.has_file, names)):
            raise OutputError(
                f"{said} holds a compiled artifact, which another {MODEL} would damage; choose another directory"
            )
        return
    if not compiled and not names <= {MODEL}:
        raise OutputError(f"{said} exists and is not an artifact; it is left alone, choose another path")
    if _is_mount(target):
        raise OutputError(f"{said} is a mount point, which cannot be replaced as a whole; give a directory in it")
    here = Path(os.path.realpath(os.curdir))
    if target == here or target in here.parents:
        raise OutputError(f"{said} is the current directory or holds it; give a directory in it")


def _is_artifact(folder: Path) -> bool:
    try:
        found = json.loads((folder / METADATA).read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT


def _is_mount(folder: Path) -> bool:
    """Whether something is mounted there; other than ``os.path.ismount`` also a directory of the same file system."""
    if os.path.ismount(folder):
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    places = (line.split()[4] for line in lines)
    return os.fsencode(folder) in {re.sub(rb"\\(\d{3})", lambda code: bytes([int(code[1], 8)]), p) for p in places}


def _flush(path: Path) -> None:
    """Force a file's or a directory's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without fsync for directories
            raise
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> bool:
    """Swap two directories in one system call; False where the system has none."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    at_cwd, exchange = -100, 2
    if rename(at_cwd, os.fsencode(new), at_cwd, os.fsencode(old), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(number, os.strerror(number), str(old))


def _temporary_prefix(target: Path) -> str:
    name = os.fsencode(target.name)
    return f".{target.name if len(name) < 200 else hashlib.sha256(name).hexdigest()}.tern-"  # names have 255 bytes


def clear_leftovers(target: Path, process: int | None = None) -> None:
    """Bring back an artifact that a kill left moved aside, and remove directories of builds whose process is gone.

    Args:
        target: The output, without symbolic links.
        process: The process that is gone; None looks which ones are.
    """
    prefix = _temporary_prefix(target)
    for path in sorted(path for path in target.parent.iterdir() if path.name.startswith(prefix)):
        kind, _, rest = path.name.removeprefix(prefix).partition("-")
        number = rest.partition("-")[0]
        if not number.isdecimal() or (alive(int(number)) if process is None else int(number) != process):
            continue
        if kind == "old" and not target.exists():
            path.rename(target)
        elif kind in ("new", "old"):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def replacing(output: str | os.PathLike[str]) -> Iterator[Path]:
    """A fresh directory that becomes ``output`` when the block ends well.

    An earlier artifact at ``output`` is replaced as a whole; files in it that are not the artifact's (a benchmark's
    report, for example) move to the new one. When the block raises, or the process dies, the earlier one stays.

    Yields:
        The directory to fill.

    Raises:
        OutputError: ``output`` may not be replaced, or cannot be written.
    """
    target = Path(os.path.realpath(check(output)))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # of a directory that may be written but not listed
            clear_leftovers(target)
    except OSError as error:
        raise OutputError(f"cannot write to {target.parent}: {error.strerror or error}") from error
    name = f"{_temporary_prefix(target)}new-{os.getpid()}-{secrets.token_hex(6)}"
    try:
        with fresh_folder(target.parent / name) as folder:
            yield folder
            _commit(folder, target)
    except OSError as error:
        raise OutputError(f"writing {target} failed, nothing was changed: {error.strerror or error}") from error


def _take(path: Path, place: Path) -> None:
    """Give a user's file or directory a second name, so that none of it is lost or read, whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, place, symlinks=True, copy_function=_link)
    else:
        _link(path, place)


def _link(path: str | Path, place: str | Path) -> None:
    try:
        os.link(path, place, follow_symlinks=False)
    except OSError:  # a file system without hard links, or a file of somebody else
        shutil.copy2(path, place, follow_symlinks=False)


def _written(folder: Path) -> set[str]:
    """Names of the files in a directory that an export has left: others beside them are the user's, C too."""
    known = {*registry.files(), WEIGHTS, MODEL, SAMPLES, METADATA}
    try:
        return known | {name for name in json.loads((folder / METADATA).read_text())["files"] if has_file(name)}
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return known


def _commit(folder: Path, target: Path) -> None:
    """Flush ``folder`` and put it in the place of ``target``; what was there ends up removed."""
    if target.is_dir():
        known = _written(target)
        for path in target.iterdir():
            if path.name not in known and not is_part(path.name):
                _take(path, folder / path.name)
    for place in parts(folder):
        for path in place.iterdir():
            if path.is_file() and has_file(path.name):
                _flush(path)
        _flush(place)
    if not target.exists():
        folder.rename(target)
    elif not _exchange(folder, target):
        aside = target.parent / f"{_temporary_prefix(target)}old-{os.getpid()}-0"
        target.rename(aside)
        try:
            folder.rename(target)
        except OSError:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    _flush(target.parent)
