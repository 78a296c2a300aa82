"""Writes ``model.c``, ``model.h`` and ``model_weights.h``."""

from __future__ import annotations

import re
from importlib import resources
from math import prod
from pathlib import Path

import numpy as np

from tvm_schedules.backends.c.files import HEADER, SOURCE, WEIGHTS
from tvm_schedules.backends.c.program import CTYPES, Call, Program, number
from tvm_schedules.common.names import comment, identifier
from tvm_schedules.ir.layout import ALIGN
from tvm_schedules.ir.plan import Plan, TensorInfo
from tvm_schedules.lowering.steps import Buffer

__all__ = ["write"]

_ORDER = (
    "common.c", "codes.c", "offsets.c", "ternary_u8.c", "ternary_f32.c", "ternary.c", "dense.c", "dense_sum.c",
    "linear.c", "linear_row.c", "linear_sum.c", "pool.c", "pool_planes.c", "global_pool.c", "global_pool_planes.c",
    "quantize.c", "repack.c", "repack_from_to.c",
)  # fmt: skip
"""Source files, those that need others after them."""


def write(plan: Plan, program: Program, folder: Path, version: str) -> None:
    """Writes the three files into ``folder``.

    Args:
        plan: Inputs, outputs and arena of the network.
        program: Its tables and calls; every buffer has its place.
        folder: Where to.
        version: Of this package, for the files' first line.
    """
    text = _Text(plan, program, f"Written by tern-lightning {version}; do not edit.")
    (folder / WEIGHTS).write_text(text.weights())
    (folder / HEADER).write_text(text.header())
    (folder / SOURCE).write_text(text.source())


class _Text:
    """Makes the files' text."""

    def __init__(self, plan: Plan, program: Program, notice: str) -> None:
        self.plan, self.program, self.notice = plan, program, notice
        self.ends: list[tuple[str, int, TensorInfo, str]] = []  # side, number, entry, name in C
        taken: set[str] = set()
        for side, entries in (("input", plan.inputs), ("output", plan.outputs)):
            for index, entry in enumerate(entries):
                name = identifier(entry.name, side, taken)
                taken.add(name)
                self.ends.append((side, index, entry, name))

    # -- model_weights.h ----------------------------------------------------------------------------------------------
    def weights(self) -> str:
        """Constant tables."""
        lines = [f"/* Constant tables of model.c. {self.notice} */"]
        for name, values in self.program.arrays.items():
            kind = "tern_offset" if name in self.program.offsets else CTYPES[values.dtype.name]
            flat = values.ravel()
            floats = flat.dtype == np.float32
            items = [number(v) for v in flat] if floats else list(map(str, flat.tolist()))
            step = 10 if floats else 32
            lines.append(f"static const {kind} {name}[{max(1, flat.size)}] = {{")
            lines += [",".join(items[i : i + step]) + "," for i in range(0, len(items), step)] or ["0"]
            lines.append("};")
        return "\n".join(lines) + "\n"

    # -- model.h ------------------------------------------------------------------------------------------------------
    def header(self) -> str:
        """Signature, shapes, scales, memory."""
        program = self.program
        lines, macros = [], []
        many = {side: sum(end[0] == side for end in self.ends) > 1 for side in ("input", "output")}
        for side, index, entry, name in self.ends:
            shape = "".join(f"[{n}]" for n in entry.shape) or "[1]"
            line = f"{side} {name}: {entry.dtype} {shape}"
            prefix = f"MODEL_{side.upper()}" + (f"_{index}" if many[side] else "")
            macros.append(f"typedef {CTYPES[entry.dtype]} {prefix.lower()}_type;")
            macros.append(f"#define {prefix}_ELEMENTS {max(1, prod(entry.shape))}")
            quant = program.quants.get((side, index))
            if quant:
                scale = number(np.float32(quant[0]))
                line += f"; in 8 bits uint8 q for the number (q - {quant[1]}) * {scale[:-1]}"
                macros += [f"#define {prefix}_SCALE {scale}", f"#define {prefix}_ZERO_POINT {quant[1]}"]
            lines.append(line)
        quantized = ""
        if program.quants:
            quantized = (
                "\n/* The same for numbers that are in 8 bits already: input q stands for "
                "(q - MODEL_INPUT_ZERO_POINT) * MODEL_INPUT_SCALE. */\n"
                f"int model_run_quantized({self._parameters(True)});\n"
                f"int model_run_quantized_arena(void *arena, size_t arena_bytes, {self._parameters(True)});\n"
            )
        return _HEADER.format(
            notice=self.notice,
            ends="\n   ".join(lines),
            macros="\n".join(macros),
            arena=max(ALIGN, self.plan.arena_bytes or 0),
            tables=program.table_bytes,
            parameters=self._parameters(False),
            quantized=quantized,
        )

    def _parameters(self, quantized: bool) -> str:
        made = []
        for side, index, entry, name in self.ends:
            dtype = "uint8" if quantized and (side, index) in self.program.quants else entry.dtype
            made.append(f"{'const ' if side == 'input' else ''}{CTYPES[dtype]} *{name}")
        return ", ".join(made)

    # -- model.c ------------------------------------------------------------------------------------------------------
    def source(self) -> str:
        """Kernels, layers, the functions of the header."""
        program = self.program
        flags = "\n".join(f"#define {name} {value}" for name, value in sorted(program.flags.items()))
        kernels = sorted(program.kernels, key=lambda item: _ORDER.index(item[0]))
        parts = [
            f"/* {self.notice}\n   Compile this one file; it needs model.h and {WEIGHTS} beside it. */",
            '#include "model.h"',
            f"/* what this network needs of the kernels below */\n{flags}",
            _load("common.c"),
            f"typedef {program.offset_dtype}_t tern_offset; /* reaches every element that a row's taps read */",
            *(_load(name, dict(words)) for name, words in kernels),
            f'#include "{WEIGHTS}"',
            *program.structs,
            self._run(),
            self._entries(),
        ]
        return "\n\n".join(part.strip() for part in parts) + "\n"

    def _run(self) -> str:
        names: dict[int, str] = {}
        lines = []
        for call in self.program.calls:
            for buffer in call.operands:
                place = buffer.root.place if buffer else None
                if buffer and place and place.kind == "arena" and id(buffer.root) not in names:
                    names[id(buffer.root)] = f"m{len(names)}"
                    what = f"/* {comment(buffer.name)}: {buffer.root.nbytes} bytes */"
                    lines.append(f"    void *const {names[id(buffer.root)]} = arena + {place.offset}; {what}")
        for call in self.program.calls:
            lines.append(f"    {self._call(call, names)}")
        ends = ", ".join(f"{'const ' if side == 'input' else ''}void *{name}" for side, _, _, name in self.ends)
        # Whether the ends are in 8 bits matters only where there is a choice.
        choice = "int quantized, " if self.program.quants else ""
        return f"static void tern_run(uint8_t *arena, {choice}{ends})\n{{\n" + "\n".join(lines) + "\n}"

    def _call(self, call: Call, names: dict[int, str]) -> str:
        def operand(buffer: Buffer | None) -> str:
            if buffer is None:
                return "NULL"
            place = buffer.root.place
            assert place is not None
            if place.kind == "arena":
                return names[id(buffer.root)]
            return next(name for side, index, _, name in self.ends if (side, index) == (place.kind, place.offset))

        arguments = ", ".join([f"&{call.struct}", *map(operand, call.operands)])
        text = f"{call.function}({arguments});"
        return f"if (quantized) {call.plain}({arguments}); else {text}" if call.plain else text

    def _entries(self) -> str:
        names = [name for _, _, _, name in self.ends]
        check = " || ".join(f"!{name}" for name in names)
        parts = []
        for quantized in (False, True)[: 2 if self.program.quants else 1]:
            suffix = "_quantized" if quantized else ""
            choice = f"{int(quantized)}, " if self.program.quants else ""
            parameters, listed = self._parameters(quantized), ", ".join(names)
            parts.append(
                f"int model_run{suffix}_arena(void *arena, size_t arena_bytes, {parameters})\n{{\n"
                f"    if (!arena || (uintptr_t)arena % 8 || arena_bytes < MODEL_ARENA_BYTES || {check}) return -1;\n"
                f"    tern_run(arena, {choice}{listed});\n    return 0;\n}}"
            )
            parts.append(
                f"#ifndef MODEL_NO_STATIC_ARENA\nint model_run{suffix}({parameters})\n{{\n"
                f"    return model_run{suffix}_arena(tern_arena.bytes, sizeof tern_arena.bytes, {listed});\n}}\n#endif"
            )
        arena = (
            "#ifndef MODEL_NO_STATIC_ARENA\nstatic union {\n    uint64_t aligned;\n"
            "    uint8_t bytes[MODEL_ARENA_BYTES];\n} tern_arena;\n#endif"
        )
        return "\n\n".join([arena, *parts])


def _load(name: str, words: dict[str, str] | None = None) -> str:
    """A kernel's source with its placeholders filled in: ``@WORD@``, or ``@WORD:text@`` around a text."""
    text = resources.files(__package__).joinpath("source", name).read_text(encoding="utf-8")
    for word, value in (words or {}).items():
        text = text.replace(f"@{word}@", value)
        text = re.sub(f"@{word}:([^@]*)@", value, text)
    if left := re.findall(r"@\w+[:@]", text):
        raise ValueError(f"{name}: placeholders {sorted(set(left))} are not filled in")
    return text


_HEADER = """\
/* {notice}

   {ends}

   Nothing is allocated. Tensors between the layers take MODEL_ARENA_BYTES: a static array, or memory of yours with the
   functions that end in _arena, which may run at the same time on different arenas (-DMODEL_NO_STATIC_ARENA leaves the
   static array and the functions that use it away). Of a C library only memcpy and memset are used, if at all; there
   are no other dependencies. All functions return 0, or -1 when a pointer is NULL or the arena is too small or not
   aligned to 8 bytes. The tables of model_weights.h take {tables} bytes of flash. */
#ifndef MODEL_H
#define MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

{macros}
#define MODEL_ARENA_BYTES {arena}

int model_run({parameters});
int model_run_arena(void *arena, size_t arena_bytes, {parameters});
{quantized}
#ifdef __cplusplus
}}
#endif

#endif
"""
