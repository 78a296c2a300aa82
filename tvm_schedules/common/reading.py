"""Files and messages from others: whatever damage makes Python raise while one is read becomes one error of ours.

Libraries raise a dozen kinds of errors for damaged input (``KeyError``, ``zlib.error``, ``BadZipFile``,
``RecursionError``, ...), and ``numpy.load`` allocates what a header of a few bytes asks for. Every reader of this
project wraps its work in :func:`reading`, and takes JSON and arrays by the functions below.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.errors import ModelError, TernError

__all__ = ["read_arrays", "read_json", "reading", "reading_model", "reason"]

Array = npt.NDArray[Any]
LONGEST_REASON = 200
"""Characters of another library's message that ours repeats."""

SMALL, RATIO = 1 << 28, 100
"""More bytes than that are unpacked only of a file that is at most so many times shorter: others are made to burst."""


def reason(error: BaseException) -> str:
    """What another library says in a line, with the kind of error where the words alone say little.

    >>> reason(KeyError("files")), reason(RecursionError("maximum recursion depth exceeded")), reason(MemoryError())
    ("KeyError: 'files'", 'it is nested too deeply', 'it asks for more memory than there is')
    """
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = lines[0][:LONGEST_REASON] if lines else ""
    telling = isinstance(error, ValueError | OSError | RuntimeError | zipfile.BadZipFile) and words
    return words if telling else f"{type(error).__name__}: {words}" if words else type(error).__name__


@contextlib.contextmanager
def reading(what: object, error: type[Exception], advice: str = "", verdict: str = "is damaged") -> Iterator[None]:
    """Turn what damaged input makes other libraries raise into an error of this project.

    Args:
        what: What is read, for the message: a path, or words.
        error: The class to raise; it and every :class:`~tvm_schedules.errors.TernError` pass as they are.
        advice: Put behind the message: what to do.
        verdict: What the message says of it.

    Raises:
        ModuleNotFoundError: A package is missing, which is no damage.
    """
    try:
        yield
    except (TernError, error, ModuleNotFoundError):
        raise
    except OSError as problem:
        raise error(f"cannot read {what}: {problem.strerror or reason(problem)}{advice}") from problem
    except Exception as problem:
        raise error(f"{what} {verdict} ({reason(problem)}){advice}") from problem


def reading_model() -> contextlib._GeneratorContextManager[None]:
    """:func:`reading` for what walks through a network; also a decorator of such a function."""
    return reading("the model", ModelError, verdict="is damaged, or of a form that is not supported")


def read_json(path: Path, error: type[Exception], what: str, advice: str = "") -> Any:
    """The JSON value of a file.

    Args:
        path: The file to read.
        error: The class of the error that damage raises.
        what: How messages call the file.
        advice: Put behind the message.

    Raises:
        FileNotFoundError: There is no such file.
    """
    with reading(f"the {what} {path}", error, advice):
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            pass
        else:
            value = json.loads(text)
            json.dumps(value, ensure_ascii=False).encode()  # half a character cannot be shown or be part of a path
            return value
    raise FileNotFoundError(path)


def read_arrays(source: str | os.PathLike[str] | bytes) -> dict[str, Array]:
    """The arrays of an ``.npz`` file in its order, or that of an ``.npy`` file by the name ``""``.

    Other than ``numpy.load`` it takes no more memory than the file's content is long, whatever a header says.

    Args:
        source: The file, or its bytes.

    Raises:
        ValueError: Something else than plain arrays, or a header that does not fit what is behind it.
        Exception: What ``zipfile`` and ``numpy`` raise for damage; use it in :func:`reading`.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if not zipfile.is_zipfile(file):
            file.seek(0)
            return {"": _read_array(file, size)}
        arrays = {}
        with zipfile.ZipFile(file) as entries:
            unpacked = sum(entry.file_size for entry in entries.infolist())
            if unpacked > max(SMALL, RATIO * size):
                raise ValueError(f"{size} bytes would be unpacked to {unpacked}")
            for entry in entries.infolist():
                with entries.open(entry) as stream:
                    arrays[entry.filename.removesuffix(".npy")] = _read_array(stream, entry.file_size)
    return arrays


def _read_array(file: IO[bytes], size: int) -> Array:
    """The array of so many bytes of a file, with its header."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of format {version}")
    head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = head(file)
    if dtype.hasobject or dtype.names or not dtype.itemsize:
        raise ValueError(f"elements of type {dtype}, which are no numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"{size - file.tell()} bytes are not an array of type {dtype} and shape {shape}")
    data = bytearray(math.prod(shape) * dtype.itemsize)
    if file.readinto(data) != len(data):  # type: ignore[attr-defined]  # every binary file has it
        raise ValueError("the file ends too early")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")
