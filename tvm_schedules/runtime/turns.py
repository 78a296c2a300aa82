"""Locks of models, whose callers take turns: free in the child of a fork, and taken when the interpreter ends.

A child has none of its parent's other threads, so a lock that one of them had at the fork would never be free again.
And a thread that is in a library when the interpreter ends is stopped by Python on its way back, by means that end the
whole process with SIGABRT where C++ is in between, as in TVM's interface; so the end waits for calls that run, and
lets none begin.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["take_turns"]

LONGEST = 60.0
"""Seconds that the end waits for a call."""

_models: weakref.WeakSet[Any] = weakref.WeakSet()
_guard = threading.Lock()  # of the set
_last: _Ended | None = None


class _Ended:
    """A lock that only the thread which ends the interpreter gets: others wait until the process is gone."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._never = threading.Lock()
        self._never.acquire()

    def __enter__(self) -> None:
        if threading.get_ident() != self._thread:
            self._never.acquire()

    def __exit__(self, *_: object) -> None:
        pass


def take_turns(model: Any) -> AbstractContextManager[Any]:
    """A lock for the calls of a model, which keeps it as ``_lock`` and asks for that attribute in every call.

    Args:
        model: Of a class whose instances can be referred to weakly; its ``_lock`` is another one after a fork.
    """
    with _guard:
        _models.add(model)
        return _last or threading.Lock()


def _after_fork() -> None:
    global _guard
    _guard = threading.Lock()
    for model in list(_models):
        model._lock = _last or threading.Lock()


def _at_exit() -> None:
    global _last
    with _guard:
        _last = _Ended()
        models = list(_models)
    for model in models:
        model._lock.acquire(timeout=LONGEST)  # for good: also those who wait already never get it
        model._lock = _last


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
