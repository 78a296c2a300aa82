"""An emulated PC whose CPU has AVX-512, for libraries that this machine's own CPU cannot run.

QEMU emulates no AVX-512; Bochs does, as a whole PC. Linux takes more than 300 million instructions there until it runs
a program, so that there is none: a ROM of our own (``boot.S``) starts one static program (``runner.c``), which loads
libraries from memory, runs them with inputs and writes the outputs to the disk. Memory and disk are made here.

What it tells is whether instructions give the right values. It says nothing about speed, threads or operating systems.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.backends import toolchain
from tvm_schedules.backends.cpu.compile import CpuCompiled
from tvm_schedules.packing.registry import expand

Array = npt.NDArray[Any]

MEMORY = 256 << 20
TAPE = 0x8000000
"""Address of the networks, as in runner.c; the program and its heap are below."""
STACK = 0x200000
STACK_BYTES = 1 << 20
BLOCK = 256 * 512
SECTOR = 512
DONE = 1
TABLE = 0x8000
"""Offset of the table of parts in the ROM, as in boot.S."""
DLPACK = {"i": 0, "u": 1, "f": 2, "b": 6}
PT_LOAD = 1
EVEX = 0x62
CPUS = {"skylake-avx512": "corei7_skylake_x", "cascadelake": "corei7_icelake_u", "znver5": "tigerlake"}
"""LLVM's name of a core -> Bochs' model that has what libraries for it use."""
BOCHSRC = """display_library: term
megs: {megs}
cpu: model={cpu}, ips=50000000, reset_on_triple_fault=0
romimage: file=boot.bin
vgaromimage: file=vga.bin
ata0: enabled=1
ata0-master: type=disk, mode=flat, path=disk.img, cylinders=0, heads=16, spt=63
clock: sync=none, time0=1
log: bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
"""


class MachineError(RuntimeError):
    """The emulated PC cannot be made here, or a network failed on it; the message says why."""


def missing() -> str | None:
    """Why the machine cannot be used here, or None."""
    if shutil.which("bochs-bin") is None:
        return "Bochs is not installed (Debian: apt-get install bochs bochs-term)"
    for tool in ("gcc", "objcopy", "objdump"):
        if shutil.which(tool) is None:
            return f"{tool} is needed to compile the program that runs in Bochs"
    return None


@cache
def _programs() -> tuple[bytes, bytes]:
    """The ROM and the program, compiled."""
    import tvm_ffi

    here = Path(__file__).resolve().parent
    include = Path(tvm_ffi.__file__).parent / "include"
    strict = ["-O1", "-Wall", "-Wextra", "-Werror", "-static", "-no-pie", f"-I{include}"]
    with tempfile.TemporaryDirectory(prefix="tern-x86-") as folder:
        for command in (
            ["gcc", *strict, str(here / "runner.c"), "-o", "runner", "-lm"],
            ["gcc", "-m32", "-c", str(here / "boot.S"), "-o", "boot.o"],
            ["objcopy", "-O", "binary", "-j", ".text", "boot.o", "boot.bin"],
        ):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise MachineError(f"{command[0]} failed: {done.stderr[-3000:]}")
        return (Path(folder) / "boot.bin").read_bytes(), (Path(folder) / "runner").read_bytes()


@dataclass(frozen=True)
class Call:
    """A call of a network.

    Attributes:
        library: The shared library's bytes.
        arguments: Arrays that the function gets: inputs, outputs, arena, constants.
        written: Places of the arguments that are wanted back.
        begin: First step.
        end: Step behind the last.
    """

    library: bytes
    arguments: Sequence[Array]
    written: Sequence[int]
    begin: int
    end: int


def _for_bochs(file: bytes, path: Path) -> bytes:
    """A library with its EVEX-encoded VPEXTRW as Bochs 2.7 takes it.

    A short displacement of this instruction counts words; Bochs adds it as bytes, so that twice as much stands there.

    Raises:
        MachineError: Twice the displacement is no short one.
    """
    text = subprocess.run(["objdump", "-d", "-w", str(path)], capture_output=True, text=True, check=True).stdout
    patched = bytearray(file)
    for found in re.finditer(r"^ *([0-9a-f]+):\t((?:[0-9a-f]{2} )+) *\tvpextrw ", text, re.MULTILINE):
        at, code = int(found[1], 16), bytes.fromhex(found[2])
        if code[0] != EVEX or code[5] >> 6 != 1:  # the two highest bits of ModRM: a register and a short displacement
            continue
        words = int.from_bytes(code[-2:-1], signed=True)
        if file[at : at + len(code)] != code or not -64 <= words < 64:
            raise MachineError(f"Bochs cannot run a VPEXTRW at {at:#x} of a library")
        patched[at + len(code) - 2] = 2 * words & 255
    return bytes(patched)


def library(compiled: CpuCompiled, own_threads: bool) -> bytes:
    """A compiled network as a shared library; ``own_threads`` as it was compiled."""

    def shared(output: str, objects: str | Sequence[str], **_: Any) -> None:
        toolchain.link([objects] if isinstance(objects, str) else list(objects), output, None)

    shared.object_format = "o"  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(prefix="tern-x86-") as folder:
        path = Path(folder) / "model.so"
        if own_threads:
            toolchain.export_library(compiled.module, path, None)
        else:
            compiled.module.export_library(str(path), fcompile=shared)
        return _for_bochs(path.read_bytes(), path)


def network(compiled: CpuCompiled, inputs: Sequence[Array]) -> Call:
    """The call of a network that is compiled with threads of its own; there is garbage in its memory."""
    plan = compiled.plan
    outputs = [np.zeros(entry.shape, entry.dtype) for entry in plan.outputs]
    arena = np.random.default_rng(0).integers(0, 256, plan.arena_bytes).astype(np.uint8)
    constants = expand(plan.constants, plan.constant_bytes, compiled.arrays)
    written = range(len(inputs), len(inputs) + len(outputs))
    return Call(library(compiled, own_threads=True), [*inputs, *outputs, arena, constants], written, 0, len(plan.steps))


def _program(file: bytes) -> tuple[tuple[int, bytes], int, int]:
    """A static ELF program's address and bytes in memory, its entry and the first address behind it."""
    entry, headers = struct.unpack_from("<QQ", file, 24)
    size, count = struct.unpack_from("<HH", file, 54)
    pieces, end = [], 0
    for index in range(count):
        kind, _, offset, address, _, stored, taken, _ = struct.unpack_from("<IIQQQQQQ", file, headers + size * index)
        if kind == PT_LOAD:
            pieces.append((address, file[offset : offset + stored]))
            end = max(end, address + taken)
    first = pieces[0][0]
    whole = bytearray(end - first)
    for address, data in pieces:
        whole[address - first : address - first + len(data)] = data
    return (first, bytes(whole)), entry, end


def _stack(program: bytes, base: int) -> tuple[bytes, int]:
    """The top of a new process's stack as Linux makes it, and the stack pointer: one argument, the auxiliary vector."""
    headers, size, count = struct.unpack_from("<Q", program, 32)[0], *struct.unpack_from("<HH", program, 54)
    random = STACK + STACK_BYTES - 32
    name = random + 16
    auxiliary = {3: base + headers, 4: size, 5: count, 6: 4096, 23: 0, 25: random}  # AT_PHDR, ..., AT_RANDOM
    words = [1, name, 0, 0, *(word for pair in auxiliary.items() for word in pair), 0, 0]
    data = struct.pack(f"<{len(words)}Q", *words)
    data += bytes(-len(data) % 16)
    return data + bytes(16) + b"runner\0".ljust(16, b"\0"), random - len(data)


def _record(call: Call) -> bytes:
    """A call as runner.c reads it."""
    words = [len(call.library), call.begin, call.end, len(call.arguments)]
    for index, array in enumerate(call.arguments):
        kind = [DLPACK[array.dtype.kind], 8 * array.itemsize]
        words += [*kind, array.nbytes, int(index in call.written), array.ndim, *array.shape]
    record = struct.pack(f"<{len(words)}Q", *words)
    for data in (b"", call.library, *(np.ascontiguousarray(array).tobytes() for array in call.arguments)):
        record += data
        record += bytes(-len(record) % 64)
    return record


def _disk(parts: list[tuple[int, bytes]], results: int) -> tuple[bytes, bytes, int]:
    """The disk's bytes, the ROM's table of them, and the first sector of the results, which take ``results`` bytes."""
    disk, table = b"", b""
    for address, data in parts:
        padded = data + bytes(-len(data) % BLOCK)
        table += struct.pack("<3I", len(disk) // BLOCK, len(padded) // BLOCK, address)
        disk += padded
    cylinder = 16 * 63 * SECTOR
    return disk + bytes(results + -(len(disk) + results) % cylinder), table, len(disk) // SECTOR


def _results(disk: bytes, calls: Sequence[Call], log: str) -> list[list[Array]]:
    found, position = [], 0
    for index, call in enumerate(calls):
        status, message = struct.unpack_from(f"<Q{SECTOR - 8}s", disk, position)
        if status != DONE:
            reason = message.split(b"\0")[0].decode(errors="replace") if status else f"the CPU stopped: {log[-3000:]}"
            raise MachineError(f"network {index}: {reason}")
        position += SECTOR
        arrays = []
        for place in call.written:
            like = call.arguments[place]
            arrays.append(np.frombuffer(disk, like.dtype, like.size, position).reshape(like.shape))
            position += _sectors(like.nbytes) * SECTOR
        found.append(arrays)
    return found


def _sectors(count: int) -> int:
    """Sectors that so many bytes take."""
    return -(-count // SECTOR)


def run(calls: Sequence[Call], cpu: str, timeout: float = 900) -> list[list[Array]]:
    """Call functions of libraries, one after the other.

    Args:
        calls: All together have to fit into about 100 MiB.
        cpu: Bochs' name of a model, one of ``CPUS`` or see ``bochs-bin -help cpu``.
        timeout: Seconds.

    Returns:
        For each call the arguments that it writes.

    Raises:
        MachineError: A call failed, or the machine cannot be made here.
    """
    reason = missing()
    if reason is not None:
        raise MachineError(reason)
    rom, program = _programs()
    (start, memory), entry, end = _program(program)
    stack, pointer = _stack(program, start)
    tape = b"".join(_record(call) for call in calls)
    parts = [(start, memory), (pointer & ~0xFFFF, bytes(pointer & 0xFFFF) + stack), (TAPE, bytes(64) + tape)]
    results = SECTOR * sum(1 + sum(_sectors(call.arguments[i].nbytes) for i in call.written) for call in calls)
    _, _, first = _disk(parts, results)
    parts[-1] = (TAPE, struct.pack("<2Q", len(calls), first).ljust(64, b"\0") + tape)
    disk, table, _ = _disk(parts, results)
    table += struct.pack("<9I", 0, 0, pointer, 0, 0, entry, 0, 0, (end + 0xFFFF) & ~0xFFFF)
    with tempfile.TemporaryDirectory(prefix="tern-x86-") as name:
        folder = Path(name)
        (folder / "boot.bin").write_bytes(rom[:TABLE] + table + rom[TABLE + len(table) :])
        (folder / "disk.img").write_bytes(disk)
        (folder / "vga.bin").write_bytes(_video())
        (folder / "bochsrc").write_text(BOCHSRC.format(megs=MEMORY >> 20, cpu=cpu))
        (folder / "commands").write_text("c\n")  # Debian's Bochs has its debugger, which waits for this
        _emulate(folder, timeout)
        log = (folder / "bochs.log").read_text(errors="replace") if (folder / "bochs.log").exists() else ""
        return _results((folder / "disk.img").read_bytes()[first * SECTOR :], calls, log)


def _video() -> bytes:
    """A ROM for the graphics card that does nothing: Bochs wants one, with this mark and bytes whose sum is 0."""
    video = bytearray(b"\x55\xaa\x01\xcb".ljust(SECTOR, b"\0"))
    video[-1] = -sum(video) % 256
    return bytes(video)


def _emulate(folder: Path, timeout: float) -> None:
    """Run Bochs until it ends, or kill it after a time: it takes no other signal."""
    command = ["bochs-bin", "-q", "-f", "bochsrc", "-rc", "commands"]
    with (folder / "screen").open("wb") as screen:
        subprocess.run(
            command, cwd=folder, env={**os.environ, "TERM": "vt100"}, stdin=subprocess.DEVNULL,
            stdout=screen, stderr=subprocess.STDOUT, timeout=timeout, check=False,
        )  # fmt: skip
