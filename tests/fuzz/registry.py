"""What a reader is for these tests, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

Errors = tuple[type[Exception], ...]


@dataclass(frozen=True)
class Reader:
    """One of them.

    Attributes:
        make: The damaged input of a case, in a folder of the reader's own.
        read: Reads it; what it raises is compared with ``errors``.
        errors: What it may raise.
        sizes: Whether a well-formed input may ask for any amount of memory.
    """

    make: Callable[[Random, Path], Any]
    read: Callable[[Any, Path], object]
    errors: Errors
    sizes: bool = False


READERS: dict[str, Callable[[Path], Reader]] = {}
CASES: dict[str, int] = {}
"""Number of cases of an ordinary run."""


def reader(name: str, cases: int) -> Callable[[Callable[[Path], Reader]], Callable[[Path], Reader]]:
    """Registers a function that prepares a reader in a folder; what it needs is imported there."""

    def add(prepare: Callable[[Path], Reader]) -> Callable[[Path], Reader]:
        READERS[name], CASES[name] = prepare, cases
        return prepare

    return add


def written(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """Reads the input from a file of this name."""

    def from_file(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return from_file
