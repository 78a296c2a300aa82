"""Networks of the tests as C: compiled for this machine as a library, or as a program under the sanitizers."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.tvm_schedules.compiling import compile_c
from tvm_schedules.backends.c.runtime import CModel
from tvm_schedules.backends.c.writer import write
from tvm_schedules.ir.plan import Plan
from tvm_schedules.targets.registry import resolve

CTYPES = {"float32": "float", "uint8": "uint8_t"}


def generate(model: onnx.ModelProto, folder: Path) -> Plan:
    """Writes the C files; returns the plan."""
    folder.mkdir(parents=True, exist_ok=True)
    portable = compile_c(model, resolve("c"))
    write(portable.plan, portable.program, folder, "0")
    return portable.plan


def host_model(model: onnx.ModelProto, folder: Path, options: Sequence[str] = ()) -> CModel:
    return CModel(folder, generate(model, folder), options=options)


def as_list(result: Any) -> list[np.ndarray]:
    return list(result) if isinstance(result, tuple) else [result]


def program_source(plan: Plan) -> str:
    """A program that reads all inputs from stdin and writes all outputs to stdout, on exactly as much memory."""
    lines, names = ['#include "model.h"', "#include <stdio.h>", "#include <stdlib.h>", "int main(void)", "{"], []
    for side, entries in (("input", plan.inputs), ("output", plan.outputs)):
        for index, entry in enumerate(entries):
            name, count = f"{side}{index}", int(np.prod(entry.shape))
            kind = CTYPES[entry.dtype]
            lines.append(f"    {kind} *{name} = malloc({count} * sizeof({kind}));")
            names.append(name)
            if side == "input":
                lines.append(f"    if (fread({name}, sizeof({kind}), {count}, stdin) != {count}) return 2;")
    lines.append("    void *arena = malloc(MODEL_ARENA_BYTES);")
    lines.append(f"    if (model_run_arena(arena, MODEL_ARENA_BYTES, {', '.join(names)})) return 3;")
    for index, entry in enumerate(plan.outputs):
        kind, count = CTYPES[entry.dtype], int(np.prod(entry.shape))
        lines.append(f"    fwrite(output{index}, sizeof({kind}), {count}, stdout);")
        names.append(f"output{index}")
    lines += [f"    free({name});" for name in dict.fromkeys(names)]
    return "\n".join([*lines, "    free(arena);", "    return 0;", "}", ""])


def apart(folder: Path) -> None:
    """Gives every tensor between the layers memory of its own, so that a sanitizer sees where it ends.

    What is only read behind a tensor is filled with a number, and the program aborts if that has changed at the end.
    """
    path = folder / "model.c"
    line = r"(void \*const (m\d+) = )arena \+ \d+; /\* (.*: (\d+) bytes(?:, the last (\d+) only read)?) \*/"
    text, checks = path.read_text(), []
    found = list(re.finditer(line, text))
    assert found
    for match in found:
        declared, name, about, size, tail = match.groups()
        text = text.replace(match[0], f"{declared}tern_apart({size}, {tail or 0}); /* {about} */")
        checks.append(f"    tern_unchanged({name}, {size}, {tail or 0});")
    behind = max(re.findall(r"    TERN_ON_LAYER\(\d+\);\n", text), key=lambda one: int(re.findall(r"\d+", one)[0]))
    text = text.replace(behind, behind + "\n".join(checks) + "\n")
    path.write_text(_APART + text)


_APART = """\
#include <stdlib.h>
static void *tern_apart(size_t size, size_t tail)
{
    unsigned char *made = malloc(size);
    for (size_t i = size - tail; i < size; i++) made[i] = 0xa5;
    return made;
}
static void tern_unchanged(const void *memory, size_t size, size_t tail)
{
    for (size_t i = size - tail; i < size; i++) if (((const unsigned char *)memory)[i] != 0xa5) abort();
}
"""


def build_program(folder: Path, plan: Plan, command: Sequence[str]) -> Path:
    """Compiles the network and :func:`program_source`."""
    (folder / "main.c").write_text(program_source(plan))
    program = folder / "program"
    files = [str(folder / "main.c"), str(folder / "model.c")]
    done = subprocess.run([*command, *files, "-o", str(program)], capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]
    return program


def run_program(command: Sequence[str], plan: Plan, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    data = b"".join(np.ascontiguousarray(x).tobytes() for x in inputs)
    done = subprocess.run(command, input=data, capture_output=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert not done.returncode, (done.returncode, done.stderr.decode()[-3000:])
    assert not done.stderr, done.stderr.decode()[-3000:]
    outputs, at = [], 0
    for entry in plan.outputs:
        size = int(np.prod(entry.shape)) * np.dtype(entry.dtype).itemsize
        outputs.append(np.frombuffer(done.stdout[at : at + size], entry.dtype).reshape(entry.shape))
        at += size
    assert at == len(done.stdout)
    return outputs


def sanitizer() -> list[str] | None:
    """The command of a C compiler with AddressSanitizer and UndefinedBehaviorSanitizer, None if there is none."""
    for name in ("gcc", "clang"):
        if shutil.which(name):
            options = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g", "-std=c99"]
            probe = subprocess.run(
                [name, *options, "-x", "c", "-", "-o", "/dev/null"], input="int main(void){return 0;}", text=True
            )
            if not probe.returncode:
                return [name, *options]
    return None
