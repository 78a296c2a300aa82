"""From a compiled TVM module to a shared library, for this machine and for others, without root or toolchain.

``zig cc`` (``pip install ziglang``) is a C compiler and linker for every Linux target in one wheel. Where it is
missing, a cross gcc on the path serves as well. The libraries need no C++ runtime, so ``zig c++`` is never called (it
would build one).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tvm_schedules.errors import LinkError
from tvm_schedules.targets import host_cpu as cpu

THREADS = Path(__file__).with_name("cpu") / "native" / "threads.c"
"""Threads for parallel loops in place of TVM's."""

GLIBC = "2.28"  # oldest C library that the linked files run with: Debian 10, Ubuntu 20.04 and everything later
_HINT = "install one with: pip install ziglang"


def linker(triple: str | None) -> list[str]:
    """The command that links a shared library, without inputs and output.

    Args:
        triple: LLVM triple such as ``aarch64-linux-gnu``; None means this machine.

    Returns:
        Program and options. This machine: ``$CC``, then cc, gcc, clang, then zig. Others: zig, then a cross gcc.

    Raises:
        LinkError: There is none; the message says what to install.
    """
    shared = ["-shared", "-fPIC", "-s"]  # -s: no debug information in the file
    if triple is None:
        if sys.platform == "darwin":
            shared = ["-shared", "-fPIC", "-undefined", "dynamic_lookup"]
        # Code on pages of its own would leave up to two pages of the file empty; zig leaves none.
        dense = ["-Wl,-z,noseparate-code"] if sys.platform == "linux" else []
        for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
            if name and shutil.which(name):
                return [name, *shared, *dense]
        if _has_zig():
            return [*_zig(_zig_triple(f"{cpu.architecture()}-linux-gnu")), *shared]
        raise LinkError(
            f"no C compiler found to link a library for this machine (looked for $CC, cc, gcc, clang); {_HINT}"
        )
    if _has_zig():
        return [*_zig(_zig_triple(triple)), *shared]
    for name in (f"{triple}-gcc", f"{triple}-g++", f"{triple}-clang"):
        if shutil.which(name):
            return [name, *shared]
    raise LinkError(
        f"no linker found for {triple} (looked for the ziglang package and {triple}-gcc on the path); {_HINT}"
    )


def _has_zig() -> bool:
    return importlib.util.find_spec("ziglang") is not None


def _zig(triple: str) -> list[str]:
    return [sys.executable, "-m", "ziglang", "cc", "-target", triple]


def _zig_triple(triple: str) -> str:
    """LLVM's ``aarch64-unknown-linux-gnu`` -> zig's ``aarch64-linux-gnu.2.28``.

    Raises:
        LinkError: The system is not one that zig links for here.
    """
    parts = [part for part in triple.split("-") if part not in ("unknown", "pc", "none", "conda")]
    if len(parts) == 3 and parts[1] == "linux":
        return "-".join(parts) + (f".{GLIBC}" if parts[2].startswith("gnu") else "")
    raise LinkError(f"only Linux triples such as aarch64-linux-gnu can be cross-linked, got {triple!r}")


def link(objects: list[str], output: str | Path, triple: str | None) -> None:
    """Link object files into a shared library.

    Raises:
        LinkError: No linker, or it failed; the message holds the command and the end of its output.
    """
    command = [*linker(triple), "-o", str(output), *objects]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        raise LinkError(f"linking {Path(output).name} failed: {' '.join(command)}\n{done.stdout[-2000:]}")


def own_threads() -> bool:
    """Whether libraries get threads of their own; other systems' linkers keep TVM's."""
    return sys.platform != "darwin"


def _threads(objects: list[str], wakes: bool) -> list[str]:
    """What gives parallel loops threads of their own, where there are such loops."""
    if not own_threads() or not any(b"__TVMBackendParallelLaunch" in Path(o).read_bytes() for o in objects):
        return []
    return ["-O2", "-pthread", "-fvisibility=hidden", f"-DWAKES={int(wakes)}", str(THREADS)]


def export_library(module: Any, output: str | Path, triple: str | None, wakes: bool = True) -> None:
    """Write a ``tvm.runtime.Module`` as a shared library.

    Args:
        module: Compiled by LLVM.
        output: Path of the ``.so``.
        triple: LLVM triple to link for, None for this machine (``TargetSpec.triple``).
        wakes: Whether its parallel loops take long enough to wake threads for them.

    Raises:
        LinkError: No linker for the target, or it failed.
    """
    linker(triple)  # before the slow part: a missing linker is said first

    def compile_shared(target: str, objects: Any, **_: Any) -> None:
        files = [objects] if isinstance(objects, str) else list(objects)
        link([*files, *_threads(files, wakes)], target, triple)

    compile_shared.object_format = "o"  # type: ignore[attr-defined]
    try:
        module.export_library(str(output), fcompile=compile_shared)
    except LinkError:
        raise
    except OSError as error:
        raise LinkError(f"cannot write the object files of {Path(output).name}: {error}") from error
