"""Builds a network for a core, runs it on the emulated board under the counting plugin, and reads what that wrote."""

from __future__ import annotations

import bisect
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import tvm_schedules
from benchmarks.mcu.cores import CORES, Core
from tvm_schedules.backends.c.backend import write_sample
from tvm_schedules.backends.c.runtime import CModel
from tvm_schedules.backends.toolchain import linker
from tvm_schedules.errors import LinkError

__all__ = ["Counted", "McuError", "compiled", "count", "missing", "prepare"]

HERE = Path(__file__).parent
_MARKS = ("begin", "end", "mark")
MEMORY = HERE.parents[1] / "examples" / "c" / "cortex-m" / "memory.ld"
EMPTY = (
    "int {run}(const void *x, void *y);\nint {run}(const void *x, void *y) {{ return !x || !y; }}\n"
    "void model_prepare(void);\nvoid model_prepare(void) {{}}\n"
)


LAYERS = "void count_mark(void);\n#define TERN_ON_LAYER(index) count_mark()\n"
"""What a network's source includes first where its layers are counted."""


class McuError(Exception):
    """Something does not compile, does not run or gives wrong numbers."""


@dataclass(frozen=True)
class Counted:
    """One network on one core.

    Attributes:
        instructions: Of one run.
        flash: Bytes of code and tables, with what is needed of the compiler's library.
        arena: Bytes of RAM between the layers.
        stack: Bytes of stack.
        functions: Instructions by function; functions that were inlined count where they stand.
        layers: Instructions of every call of a kernel, in order; empty where they were not asked for.
    """

    instructions: int
    flash: int
    arena: int
    stack: int
    functions: dict[str, int]
    layers: tuple[int, ...] = ()


def missing(core: str = "m4") -> str | None:
    """Why nothing can be counted here for a core, or None."""
    tools = CORES[core].tools
    for tool in (f"{tools.prefix}gcc", tools.emulator):
        if shutil.which(tool) is None:
            return f"{tool} is missing (Debian: apt-get install {tools.packages})"
    try:
        linker(None)
    except LinkError as error:
        return str(error)
    return None


def prepare(model: Any, samples: np.ndarray, folder: Path, verify: bool) -> None:
    """Writes a network as C, with a sample of what the same C gives on this machine, in 8 bits if it has such a form.

    Args:
        model: ONNX.
        samples: Float inputs ``[n, ...]``, of which the first are taken.
        folder: Where the artifact is made.
        verify: Whether it is compared with onnxruntime.
    """
    artifact = tvm_schedules.build(model, folder, "c", samples=samples, verify=verify)
    library = tvm_schedules.load(artifact.path)
    assert isinstance(library, CModel)
    entry = library.inputs[0]
    x = samples[: entry["shape"][0]]
    quant = entry.get("quant")
    if quant:
        codes = np.rint(x / np.float32(quant["scale"])) + quant["zero_point"]
        x = np.clip(codes, 0, 255).astype(np.uint8)
    found = library.run_quantized(x) if quant else library(x)
    if not write_sample(folder, {entry["name"]: x}, list(found) if isinstance(found, tuple) else [found]):
        raise McuError("the sample is too large")


def count(
    folder: Path,
    core: str,
    options: Sequence[str] = ("-O3",),
    objects: Sequence[Path] = (),
    layers: bool = False,
) -> Counted:
    """Counts one run.

    Args:
        folder: Made by :func:`prepare`.
        core: Of :data:`~benchmarks.mcu.cores.CORES`.
        options: Of the compiler, besides the core's.
        objects: What the network's code calls, compiled.
        layers: Whether calls of kernels are counted one by one, which takes a few instructions more for each.

    Raises:
        McuError: It does not compile, run, or give the sample's output.
    """
    board = CORES[core]
    with tempfile.TemporaryDirectory(prefix="tern-mcu-") as place:
        work = Path(place)
        (work / "layers.h").write_text(LAYERS)
        options = [*options, *(("-include", str(work / "layers.h")) if layers else ())]
        program, empty = (_program(work, folder, board, options, part) for part in (objects, None))
        counts, symbols = work / "counts", _symbols(program, board)
        places = ",".join(f"{mark}={symbols[f'count_{mark}']:#x}" for mark in _MARKS[: 2 + layers])
        command = [board.tools.emulator, "-M", board.board, *board.tools.machine, *board.machine, "-nographic"]
        command += ["-monitor", "none", "-serial", "none", "-semihosting", "-kernel", str(program)]
        command += ["-plugin", f"{_plugin(work)},out={counts},{places}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
        said = dict(re.findall(r"(stack|differ) (\d+)", done.stderr))
        if done.returncode or said.get("differ") != "0":
            raise McuError(f"{folder.name} on {core}: status {done.returncode}, {done.stderr.strip()[-1000:]!r}")
        functions = _by_function(counts.read_text(), symbols)
        marks = [int(number) for number in re.findall(r"mark (\d+)", counts.read_text())]
        flash = [_flash(path, board) for path in (program, empty)]
    arena = int(re.findall(r"define MODEL_ARENA_BYTES (\d+)", (folder / "model.h").read_text())[0])
    each = tuple(after - before for before, after in pairwise(marks))
    return Counted(sum(functions.values()), flash[0] - flash[1], arena, int(said["stack"]), functions, each)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        raise McuError(f"{' '.join(command)}\n{done.stdout[-2000:]}")
    return done.stdout


def _plugin(work: Path) -> Path:
    """The plugin as a shared library."""
    library = work / "insn.so"
    _run([*linker(None), "-O2", "-fvisibility=hidden", "-o", str(library), str(HERE / "insn.c")])
    return library


def compiled(source: Path, target: Path, core: Core, options: Sequence[str]) -> Path:
    """An object file of C for a core.

    Raises:
        McuError: It does not compile.
    """
    _run(
        [f"{core.tools.prefix}gcc", *core.options, *core.tools.options, *options, "-c", str(source), "-o", str(target)]
    )
    return target


def _program(work: Path, folder: Path, core: Core, options: Sequence[str], others: Sequence[Path] | None) -> Path:
    """An ELF file of the network and what it calls, or, where that is None, of one of no layers in its place."""
    program, script = work / ("empty" if others is None else "program"), work / "memory.ld"
    text = MEMORY.read_text()
    for name, (address, size) in (("flash", core.flash), ("ram", core.ram)):
        text = re.sub(
            rf"(\b{name} \(\w+\) *: ORIGIN = )\w+, LENGTH = \w+", rf"\g<1>{address:#x}, LENGTH = {size}K", text
        )
    script.write_text(text)
    quantized = "model_run_quantized(" in (folder / "model.h").read_text()
    run = "model_run_quantized" if quantized else "model_run"
    (work / "empty.c").write_text(EMPTY.format(run=run))
    # The C library has better memcpy and memset than the startup code's.
    startup = ["-Dmemcpy=unused_memcpy", "-Dmemset=unused_memset", "-c", str(core.tools.startup)]
    sections = ["-std=c99", "-ffunction-sections", "-fdata-sections", f"-I{folder}"]
    base = [f"{core.tools.prefix}gcc", *core.options, *core.tools.options, *sections]
    _run([*base, "-O2", *startup, "-o", str(work / "startup.o")])
    _run([*base, "-O2", f"-DRUN={run}", "-c", str(HERE / "main.c"), "-o", str(work / "main.o")])
    source = work / "empty.c" if others is None else folder / "model.c"
    compiler = [*_zig(core), *sections] if core.zig else base
    _run([*compiler, *options, "-c", str(source), "-o", str(work / "model.o")])
    objects = [*(str(work / name) for name in ("startup.o", "main.o", "model.o")), *map(str, others or ())]
    _run([*base, "-nostartfiles", "-Wl,--gc-sections", f"-T{script}", *objects, "-o", str(program)])
    return program


def _zig(core: Core) -> list[str]:
    """The compiler of ziglang for a 32-bit RISC-V core without an operating system."""
    zig = [sys.executable, "-m", "ziglang", "cc"]
    return [*zig, "-target", "riscv32-freestanding", f"-mcpu={core.zig}", "-mabi=ilp32"]


def _symbols(program: Path, core: Core) -> dict[str, int]:
    """Addresses of the functions."""
    lines = (line.split() for line in _run([f"{core.tools.prefix}nm", str(program)]).splitlines())
    return {name: int(address, 16) & ~1 for address, kind, name in lines if kind in "tTW"}


def _flash(program: Path, core: Core) -> int:
    """Bytes of code, constants and initial values."""
    rows = _run([f"{core.tools.prefix}size", str(program)]).splitlines()
    text, data, *_ = rows[1].split()
    return int(text) + int(data)


def _by_function(text: str, symbols: dict[str, int]) -> dict[str, int]:
    """What the plugin wrote, by the function that a block starts in."""
    names = sorted(symbols, key=lambda name: symbols[name])
    starts = [symbols[name] for name in names]
    functions: dict[str, int] = {}
    for line in text.splitlines():
        if line.startswith("mark"):
            continue
        address, length, times = line.split()
        name = names[bisect.bisect_right(starts, int(address, 16)) - 1]
        functions[name] = functions.get(name, 0) + int(length) * int(times)
    return functions
