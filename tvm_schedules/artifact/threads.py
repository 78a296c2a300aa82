"""How many threads a loaded library uses: those linked into it (``native/threads.c``), or TVM's where it has none."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["default_threads", "setter"]

FUNCTION = "tern_threads"
"""Exported by libraries with threads of their own: ``(count, pool) -> pool``, see ``native/threads.c``."""

_SETTING = os.environ.get("TVM_NUM_THREADS", "")  # the user's, before _set_tvm changes it
_here = threading.local()  # the numbers that the calling thread has set: both kinds of pools keep one for each
_first: list[Any] = []  # of the library whose threads all others of this process share: its function, for good
_lock = threading.Lock()


def default_threads() -> int:
    """``TVM_NUM_THREADS``, or the number of physical cores that this process may use.

    (TVM's own default is half the logical CPUs on x86, which is half the cores where there is no hyper-threading.)
    """
    if _SETTING.isdigit() and int(_SETTING) > 0:
        return int(_SETTING)
    return _cores()


@functools.cache
def _cores() -> int:
    """Physical cores, when it was first asked: looking takes longer than a small network."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for number in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        try:
            siblings.add(path.read_text().strip())
        except OSError:
            siblings.add(str(number))
    return max(1, len(siblings))


def setter(library: Any) -> Callable[[int | None], None]:
    """What to call, with a number of threads, before a function of a loaded library is called.

    The number is the calling thread's; None means :func:`default_threads`.

    Args:
        library: A ``tvm.runtime.Module`` of compiled code.
    """
    try:
        own = library[FUNCTION]
    except AttributeError:
        kind, apply = "tvm", _set_tvm
    else:
        kind, apply = "own", _set_own
        with _lock:
            if not _first:
                _first.append(own)
            own(0, _first[0](0, 0))

    def use(count: int | None) -> None:
        wanted = default_threads() if count is None else count
        if getattr(_here, kind, None) != wanted:
            apply(wanted)
            setattr(_here, kind, wanted)

    return use


def _set_own(count: int) -> None:
    """Set the calling thread's number in the pool that libraries with threads of their own share."""
    _first[0](count, 0)


def _set_tvm(count: int) -> None:
    """Set the calling thread's number in TVM's pool.

    TVM reads ``TVM_NUM_THREADS`` when it makes a pool and at every parallel loop, as an upper limit; so the variable is
    set for this process, to the number of CPUs or ``count``, whichever is more.
    """
    import tvm

    os.environ["TVM_NUM_THREADS"] = str(max(count, os.cpu_count() or 1))
    biggest_cores_first = 1
    tvm.get_global_func("runtime.config_threadpool")(biggest_cores_first, count)
