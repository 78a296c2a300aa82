"""How much flash and RAM the C form takes on a Cortex-M7, by compiling it with zig's clang."""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path

import numpy as np

from tvm_schedules.backends import toolchain as linking
from tvm_schedules.errors import LinkError
from tvm_schedules.ir.plan import Plan

__all__ = ["CORTEX_M7", "cortex_m7", "sections", "told"]

CORTEX_M7 = ("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m7+fp_armv8d16sp")
"""Options of ``zig cc`` for a Cortex-M7 with single-precision floating point."""

_ALLOCATED, _WRITABLE, _CODE, _NOBITS = 2, 1, 4, 8


def cortex_m7(source: Path, level: str = "-O2") -> dict[str, int] | None:
    """Sizes of the object file; None where zig is not installed.

    Args:
        source: The file to compile, with its headers beside it.
        level: Optimization of the compiler.

    Returns:
        ``code`` and ``constants`` (both flash) and ``ram`` (the static arena) in bytes.

    Raises:
        LinkError: The compiler failed.
    """
    if not linking._has_zig():
        return None
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "model.o"
        command = [sys.executable, "-m", "ziglang", "cc", *CORTEX_M7, level, "-g0", "-std=c99", "-c"]
        command += [str(source), "-o", str(made)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode:
            raise LinkError(f"compiling {source.name} failed: {' '.join(command)}\n{done.stdout[-2000:]}")
        return sections(made.read_bytes())


def told(plan: Plan) -> list[str]:
    """RAM and flash in words.

    Args:
        plan: Of a network as C; its details have ``cortex_m7`` from :func:`cortex_m7`.
    """
    nbytes = {
        side: sum(prod(entry.shape) * np.dtype(entry.dtype).itemsize for entry in entries)
        for side, entries in (("inputs", plan.inputs), ("outputs", plan.outputs))
    }
    ends = ", ".join(f"{side} {size:,}" for side, size in nbytes.items())
    ram = f"RAM: {plan.arena_bytes:,} bytes of arena, a stack of about 1 KB; {ends} bytes are the caller's"
    sizes = plan.details["cortex_m7"]
    if not sizes:
        tables = f"flash: up to {plan.constant_bytes:,} bytes of tables, and the code"
        return [ram, f"{tables} (with ziglang installed it is measured)"]
    total = f"flash: {sizes['code'] + sizes['constants']:,} bytes on a Cortex-M7 (-O2)"
    return [ram, f"{total}: {sizes['constants']:,} of tables, {sizes['code']:,} of code"]


def sections(data: bytes) -> dict[str, int]:
    """Bytes of code, of constants and of RAM in a 32-bit little-endian ELF object.

    Raises:
        ValueError: Another kind of file.
    """
    if data[:6] != b"\x7fELF\x01\x01":
        raise ValueError("not a 32-bit little-endian ELF file")
    (start,) = struct.unpack_from("<I", data, 32)
    size, count = struct.unpack_from("<HH", data, 46)
    found = {"code": 0, "constants": 0, "ram": 0}
    for index in range(count):
        _, kind, flags, _, _, length = struct.unpack_from("<6I", data, start + index * size)
        if not flags & _ALLOCATED:
            continue
        if flags & _WRITABLE:
            found["ram"] += length
            found["constants"] += 0 if kind == _NOBITS else length  # initial values are kept in flash as well
        else:
            found["code" if flags & _CODE else "constants"] += length
    return found
