"""Loading shared libraries by what is in them, not by where they lie.

The system's loader knows a library by its path and by the number of its file, and TVM keeps every library that it has
loaded. A path that holds another library by now would give the old code, in silence; a file that is written over while
its code is mapped changes, or ends, under the feet of those who call it. So what is loaded is a copy that nobody else
writes to, with a name made of its content, and the same content is loaded once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvm_schedules.common.files import temporary_folder

__all__ = ["load_content", "load_library"]

_loaded: dict[str, Any] = {}
"""What is loaded, by SHA-256 of the content; for good, as TVM does not unload either."""


def load_library(path: str | Path) -> Any:
    """Loads a shared library.

    Args:
        path: The file. It may be replaced, written over or removed afterward.

    Returns:
        ``tvm.runtime.Module``, the same one for the same content.

    Raises:
        OSError: The file cannot be read.
        RuntimeError: It is no library that can be loaded here.
    """
    return load_content(Path(path).read_bytes())


def load_content(content: bytes) -> Any:
    """Loads a shared library from its bytes; result and errors as those of :func:`load_library`."""
    key = hashlib.sha256(content).hexdigest()
    if key not in _loaded:
        # Two threads at once load two copies, and both go on with one of them.
        _loaded.setdefault(key, _load_copy(content, key))
    return _loaded[key]


def _load_copy(content: bytes, key: str) -> Any:
    import tvm  # noqa: F401  (its runtime, which libraries need)
    import tvm_ffi

    # The folder is this user's alone, and gone again at once: what is mapped stays mapped.
    with temporary_folder("load") as folder:
        place = folder / f"{key}.so"
        try:
            place.write_bytes(content)
            return tvm_ffi.load_module(str(place))
        except (OSError, RuntimeError):  # a full disk perhaps, or one from which nothing may be run
            if not hasattr(os, "memfd_create"):
                raise
            place.unlink(missing_ok=True)
            with _in_memory(content) as source:
                place.symlink_to(source)
                return tvm_ffi.load_module(str(place))  # tvm.runtime.load_module would follow the link


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """The path of a file that is nowhere on a disk."""
    number = os.memfd_create("tern")
    try:
        with open(number, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)
