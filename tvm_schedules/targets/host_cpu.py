"""What this machine's CPU is and which instruction sets it has. It runs on boards too and needs no other package."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tvm_schedules.errors import CpuFeatureError

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
# Part numbers of ARM's own cores, from Linux' arch/arm64/include/asm/cputype.h
ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}
CHECKED = frozenset(X86_FLAGS) | frozenset(ARM_HWCAPS)


def linux_name(architecture: str) -> str:
    """What Linux calls an architecture that other systems or LLVM may call ``amd64`` or ``arm64``."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(architecture, architecture)


def architecture() -> str:
    """This process' instruction set: ``x86_64``, ``aarch64``, or what :func:`platform.machine` says."""
    return linux_name(platform.machine().lower())


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
        flags = set(" ".join(_cpuinfo("flags")[:1]).split())
        return frozenset(name for name, flag in X86_FLAGS.items() if flag in flags) if flags else None
    return None


def name() -> str:
    """The CPU's name for reports, for example ``AMD EPYC`` or ``Raspberry Pi 4 Model B Rev 1.4 (Cortex-A72)``."""
    model = _cpuinfo("model name")
    core = model[0] if model else " + ".join(_arm_cores()) or platform.processor() or architecture()
    board = Path("/proc/device-tree/model")
    if board.is_file():
        return f"{board.read_text(errors='replace').strip(chr(0) + ' ')} ({core})"
    return core


def _arm_cores() -> list[str]:
    """Names of the kinds of cores by ARM, in the order of their CPUs' numbers."""
    if set(_cpuinfo("CPU implementer")) != {"0x41"}:
        return []
    return list(dict.fromkeys(ARM_PARTS.get(part, f"ARM part {part}") for part in _cpuinfo("CPU part")))


def _cpuinfo(key: str) -> list[str]:
    """The values of ``key`` in /proc/cpuinfo, one for each CPU that has it."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return []
    pairs = (line.partition(":") for line in text.splitlines())
    return [right.strip() for left, colon, right in pairs if colon and left.strip() == key]


def check_cpu(
    what: str | Path, target: Mapping[str, Any], machine: str, here: str | None, present: Collection[str] | None
) -> None:
    """Refuse a library that a CPU cannot run, before it dies by an illegal instruction.

    Args:
        what: The artifact, for the message.
        target: Its ``metadata["target"]``.
        machine: The machine, for the message.
        here: The machine's architecture, None where it is not known.
        present: The CPU's instruction sets, None where they are not known.

    Raises:
        CpuFeatureError: Another architecture, or instruction sets that are not there.
    """
    wanted = target["architecture"]
    if here is not None and wanted != here:
        raise CpuFeatureError(
            f"{what} was built for {wanted} (target {target['name']!r}); {machine} is {here}; run it on a machine "
            "of that kind, or export the network for this one"
        )
    lacking = sorted(set(target["features"]) - set(present)) if present is not None else []
    if lacking:
        fallback = "arm" if wanted == "aarch64" else "host"
        raise CpuFeatureError(
            f"{what} was built for target {target['name']!r} and needs CPU features that {machine} "
            f"does not have: {', '.join(lacking)}; export it for target {fallback!r}"
        )
