"""How many threads a loaded library uses: those linked into it (``native/threads.c``), or TVM's where it has none."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvm_schedules.backends.cpu import quota
from tvm_schedules.runtime.threads import MOST, checked

__all__ = ["default_threads", "own_function", "set_default", "setter"]

FUNCTIONS = ("tern_workers", "tern_threads")
"""Exported by libraries with threads of their own, ``(count, pool) -> pool``, see ``native/threads.c``.

The second is of libraries that were made before jobs were taken: their pools are of another kind.
"""

_SETTING = os.environ.get("TVM_NUM_THREADS", "")  # the user's, before _set_tvm changes it
_here = threading.local()  # the numbers that the calling thread has set: both kinds of pools keep one for each
_first: dict[str, Any] = {}  # of the library whose threads all others of its kind share: its function, for good
_lock = threading.Lock()


def default_threads() -> int:
    """``TVM_NUM_THREADS``, or the number of physical cores that this process may use; at most :data:`MOST`.

    Fewer where a quota of its control groups gives it less of their time.

    (TVM's own default is half the logical CPUs on x86, which is half the cores where there is no hyper-threading.)
    """
    digits = _SETTING.lstrip("0")
    return min(MOST, int(digits[:4]) if digits.isdecimal() else _cores())


def set_default(count: int) -> None:
    """Let :func:`default_threads` be this number, here and in processes that this one starts.

    Raises:
        ValueError: See :func:`checked`.
    """
    global _SETTING
    _SETTING = os.environ["TVM_NUM_THREADS"] = str(checked(count))


@functools.cache
def _cores() -> int:
    """Physical cores or quota, when it was first asked: looking takes longer than a small network."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for number in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        try:
            siblings.add(path.read_text().strip())
        except OSError:
            siblings.add(str(number))
    return max(1, min(len(siblings), quota.cpus() or len(siblings)))


def setter(library: Any) -> Callable[[int | None], None]:
    """What to call, with a number of threads, before a function of a loaded library is called.

    The number is the calling thread's; None means :func:`default_threads`.

    Args:
        library: A ``tvm.runtime.Module`` of compiled code.
    """
    kind, own = own_function(library)
    apply = _set_tvm
    if own is not None:
        with _lock:
            first = _first.setdefault(kind, own)
            own(0, first(0, 0))
        apply = functools.partial(_set_own, first)

    def use(count: int | None) -> None:
        wanted = default_threads() if count is None else count
        if getattr(_here, kind, None) != wanted:
            apply(wanted)
            setattr(_here, kind, wanted)

    return use


def own_function(library: Any) -> tuple[str, Any]:
    """The one of :data:`FUNCTIONS` that a loaded library has, by name; ``("tvm", None)`` if its threads are TVM's."""
    for name in FUNCTIONS:
        try:
            return name, library[name]
        except AttributeError:
            continue
    return "tvm", None


def _set_own(first: Any, count: int) -> None:
    """Set the calling thread's number in the pool that libraries with threads of their own share."""
    first(count, 0)


def _set_tvm(count: int) -> None:
    """Set the calling thread's number in TVM's pool.

    TVM reads ``TVM_NUM_THREADS`` when it makes a pool and at every parallel loop, as an upper limit; so the variable is
    set for this process, to the number of CPUs or ``count``, whichever is more. Its threads sleep when they have
    nothing to do: by default each yields 300,000 times first, and a process that ends waits for that, minutes where
    CPUs are shared. Nor does TVM bind threads to CPUs: it would bind the calling one too, also to CPUs that its user
    has taken from this process.
    """
    import tvm

    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "0")
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ["TVM_NUM_THREADS"] = str(max(count, os.cpu_count() or 1))
    biggest_cores_first = 1
    tvm.get_global_func("runtime.config_threadpool")(biggest_cores_first, count)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread, which the child does not have, may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
