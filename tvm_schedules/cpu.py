"""What this machine's CPU is and which instruction sets it has. Standard library only: it also runs on boards."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

# LLVM's feature name -> the flag in /proc/cpuinfo. Only instruction sets that a compiler may use in a kernel by itself.
X86_FLAGS = {
    "sse2": "sse2",
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "popcnt": "popcnt",
    "movbe": "movbe",
    "lzcnt": "abm",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "avx": "avx",
    "f16c": "f16c",
    "fma": "fma",
    "avx2": "avx2",
    "gfni": "gfni",
    "avxvnni": "avx_vnni",
    "avxifma": "avx_ifma",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
}
# LLVM's feature name -> (AT_HWCAP or AT_HWCAP2, bit), from Linux' arch/arm64/include/uapi/asm/hwcap.h
ARM_HWCAPS = {
    "neon": (16, 1),
    "crc": (16, 7),
    "lse": (16, 8),
    "fullfp16": (16, 10),
    "rdm": (16, 12),
    "dotprod": (16, 20),
    "fp16fml": (16, 23),
    "sve": (16, 22),
    "sve2": (26, 1),
    "i8mm": (26, 13),
    "bf16": (26, 14),
}
CHECKED = frozenset(X86_FLAGS) | frozenset(ARM_HWCAPS)


def architecture() -> str:
    """This process' instruction set: ``x86_64``, ``aarch64``, or what :func:`platform.machine` says."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def features() -> frozenset[str] | None:
    """Instruction sets of this CPU by LLVM's names (those of ``CHECKED``), or None where they cannot be read."""
    if platform.system() != "Linux":
        return None
    if architecture() == "aarch64":
        getauxval = getattr(ctypes.CDLL(None), "getauxval", None)
        if getauxval is None:
            return None
        getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
        return frozenset(name for name, (kind, bit) in ARM_HWCAPS.items() if getauxval(kind) >> bit & 1)
    if architecture() == "x86_64":
        flags = set(_cpuinfo("flags").split())
        return frozenset(name for name, flag in X86_FLAGS.items() if flag in flags) if flags else None
    return None


def name() -> str:
    """The CPU's name for reports, for example ``AMD EPYC`` or ``Raspberry Pi 4 Model B Rev 1.4 (aarch64)``."""
    board = Path("/proc/device-tree/model")
    if board.is_file():
        return f"{board.read_text(errors='replace').strip(chr(0) + ' ')} ({architecture()})"
    return _cpuinfo("model name") or platform.processor() or architecture()


def _cpuinfo(key: str) -> str:
    """The first value of ``key`` in /proc/cpuinfo, or an empty string."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        left, colon, right = line.partition(":")
        if colon and left.strip() == key:
            return right.strip()
    return ""
