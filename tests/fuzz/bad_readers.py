"""Readers that do what none may do: ``python -m tests.fuzz.bad_readers JSON`` runs their cases as ``child`` would."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.fuzz import child
from tests.fuzz.registry import Reader, reader

FIRST, BAD = 0, 3
"""The first case, and the one that goes wrong."""


def _bad(name: str, action: Any) -> None:
    @reader(name, 6)
    def prepare(folder: Path) -> Reader:
        numbers = itertools.count(FIRST)

        def read(case: int, _: Path) -> None:
            if case == BAD:
                action()
            raise ValueError("refused")

        return Reader(lambda random, _: next(numbers), read, (ValueError,))


def _raise(error: Exception) -> None:
    raise error


def _wrapped() -> None:
    try:
        bytearray(1 << 40)
    except MemoryError as error:
        raise ValueError("damaged") from error


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    FIRST = job["first"]
    _bad("signal", lambda: os.kill(os.getpid(), signal.SIGSEGV))
    _bad("foreign", lambda: _raise(KeyError("x")))
    _bad("memory", _wrapped)
    _bad("slow", lambda: time.sleep(60))
    _bad("silent", lambda: _raise(ValueError("")))
    _bad("exit", lambda: os._exit(7))
    _bad("good", lambda: None)
    child.main(job)
