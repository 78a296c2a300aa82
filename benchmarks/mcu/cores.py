"""The cores that are counted: how their code is compiled, and the board on which QEMU runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["CORES", "Core", "Tools"]


@dataclass(frozen=True)
class Tools:
    """What compiles and runs code for a family of cores.

    Args:
        prefix: Of the names of GCC and its tools.
        emulator: QEMU's program.
        startup: C file that calls ``main`` and has ``say``.
        packages: Debian's packages of all of them.
        options: Of the compiler, for every core.
        machine: Of QEMU, for every board.
    """

    prefix: str
    emulator: str
    startup: Path
    packages: str
    options: tuple[str, ...] = ()
    machine: tuple[str, ...] = ()


_HERE = Path(__file__).parent
ARM = Tools(
    "arm-none-eabi-",
    "qemu-system-arm",
    _HERE.parents[1] / "examples" / "c" / "cortex-m" / "startup.c",
    "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
    ("-mthumb",),
)
RISCV = Tools(
    "riscv64-unknown-elf-",
    "qemu-system-riscv32",
    _HERE / "riscv" / "startup.c",
    "gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf qemu-system-misc",
    ("--specs=picolibc.specs", "-march=rv32imc", "-mabi=ilp32"),
    ("-bios", "none"),
)


@dataclass(frozen=True)
class Core:
    """A core and its board.

    Args:
        title: As people call it.
        options: Of the compiler.
        board: QEMU's machine.
        flash: Address and KiB of the memory that the code lies in.
        ram: Address and KiB of the other.
        tools: Its family's.
        zig: CPU of ziglang's clang, which compiles the network where GCC does not know the core; else "".
        machine: Of QEMU.
    """

    title: str
    options: tuple[str, ...]
    board: str
    flash: tuple[int, int] = (0, 4096)
    ram: tuple[int, int] = (0x20000000, 4096)
    tools: Tools = ARM
    zig: str = ""
    machine: tuple[str, ...] = ()


CORES = {
    # QEMU's only board with a Cortex-M0 is too small; the Cortex-M3 runs its instructions, and traps unaligned access.
    "m0+": Core("Cortex-M0+", ("-mcpu=cortex-m0plus", "-DTRAP_UNALIGNED"), "mps2-an385"),
    "m3": Core("Cortex-M3", ("-mcpu=cortex-m3",), "mps2-an385"),
    "m4": Core("Cortex-M4", ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"), "mps2-an386"),
    "m7": Core("Cortex-M7", ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"), "mps2-an500"),
    "m33": Core(
        "Cortex-M33",
        ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
        "mps2-an505",
        flash=(0x10000000, 4096),
        ram=(0x38000000, 4096),
    ),
    "m55": Core(
        "Cortex-M55", ("-mcpu=cortex-m55", "-mfloat-abi=hard"), "mps3-an547", flash=(0, 512), ram=(0x21000000, 2048)
    ),
    "rv32imc": Core("RISC-V rv32imc", (), "virt", (0x80000000, 4096), (0x80400000, 4096), RISCV),
    # Vectors of integers, without floating point; GCC 12 does not make them.
    "rv32imc+v": Core(
        "RISC-V rv32imc with zve32x",
        (),
        "virt",
        (0x80000000, 4096),
        (0x80400000, 4096),
        RISCV,
        "generic_rv32+m+c+zve32x+zvl128b",
        ("-cpu", "rv32,v=true,vlen=128"),
    ),
}
