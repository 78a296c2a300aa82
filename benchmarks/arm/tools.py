"""What counting needs beside the emulated board: QEMU's plugin, which is compiled once, and LLVM's tools if any."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.arm import board
from tvm_schedules.backends.toolchain import linker
from tvm_schedules.errors import LinkError

__all__ = ["llvm_tool", "missing", "plugin"]

SOURCE = Path(__file__).with_name("insn.c")
LLVM = 22  # older models of the cores are far off: LLVM 15 says 48 cycles where 22 says 13


def missing() -> str | None:
    """Why nothing can be counted here, or None."""
    try:
        linker(None)
    except LinkError as error:
        return str(error)
    return board.missing()


def plugin() -> Path:
    """The plugin as a shared library, compiled on first use.

    Raises:
        board.BoardError: It does not compile.
    """
    key = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    library = board.prepare().parent / f"insn-{key}.so"
    if not library.is_file():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            command = [*linker(None), "-O2", "-fvisibility=hidden", "-o", str(made), str(SOURCE)]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                raise board.BoardError(f"{SOURCE.name} does not compile: {done.stdout[-2000:]}")
            os.replace(made, library)
    return library


def llvm_tool(name: str) -> str | None:
    """Path of a tool of the LLVM version whose models are good enough, or None."""
    usual = Path(f"/usr/lib/llvm-{LLVM}/bin/{name}")
    return shutil.which(f"{name}-{LLVM}") or (str(usual) if usual.is_file() else None)
