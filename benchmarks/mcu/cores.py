"""The cores that are counted: how their code is compiled, and the board on which QEMU runs it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CORES", "Core"]


@dataclass(frozen=True)
class Core:
    """A core and its board.

    Args:
        title: As people call it.
        options: Of the compiler.
        board: QEMU's machine.
        flash: Address and KiB of the memory that the code lies in.
        ram: Address and KiB of the other.
    """

    title: str
    options: tuple[str, ...]
    board: str
    flash: tuple[int, int] = (0, 4096)
    ram: tuple[int, int] = (0x20000000, 4096)


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
}
