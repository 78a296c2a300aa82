"""Writes a network's three files: source, header and tables."""

from __future__ import annotations

import re
from importlib import resources
from math import prod
from pathlib import Path

import numpy as np

from tvm_schedules.backends.c.files import MODEL, Files
from tvm_schedules.backends.c.program import CTYPES, KINDS, Call, Program, number
from tvm_schedules.common.names import comment, identifier
from tvm_schedules.ir.layout import ALIGN
from tvm_schedules.ir.plan import Plan, TensorInfo
from tvm_schedules.lowering.steps import Buffer

__all__ = ["write"]

_ORDER = (
    "common.c", "dsp.c", "mve.c", "quantize.c", "repack.c", "repack_from_to.c",
    "finish.c", "finish_fixed.c", "finish_sums.c", "codes.c", "offsets.c",
    "sum_u8_lanes.c", "sum_u8_dsp.c", "sum_u8_mve.c", "sum_taps.c", "term_u8.c", "term_f32.c", "ternary_terms.c",
    "ternary_u8.c", "ternary_f32.c", "ternary.c", "ternary_groups.c", "ternary_groups_sums.c", "dense.c",
    "dense_u8.c", "dense_sum.c",
    "linear.c", "linear_put.c", "linear_row.c", "linear_sum.c", "linear_codes.c", "linear_dots.c",
    "pool.c", "pool_planes.c", "pool_bytes.c", "global_pool.c", "global_pool_planes.c",
)  # fmt: skip
"""Source files, those that need others after them."""


def write(plan: Plan, program: Program, folder: Path, version: str, files: Files = MODEL) -> None:
    """Writes the three files into ``folder``.

    Args:
        plan: Inputs, outputs and arena of the network.
        program: Its tables and calls; every buffer has its place.
        folder: Where to.
        version: Of this package, for the files' first line.
        files: Their names, whose prefix functions and macros have too.
    """
    text = _Text(plan, program, f"Written by tern-lightning {version}; do not edit.", files)
    (folder / files.weights).write_text(text.weights())
    (folder / files.header).write_text(text.header())
    (folder / files.source).write_text(text.source())


class _Text:
    """Makes the files' text."""

    def __init__(self, plan: Plan, program: Program, notice: str, files: Files) -> None:
        self.plan, self.program, self.notice, self.files = plan, program, notice, files
        self.lower, self.upper = files.prefix, files.prefix.upper()
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
        lines = [f"/* Constant tables of {self.files.source}. {self.notice} */"]
        for name, values in self.program.arrays.items():
            kind = "tern_offset" if name in self.program.offsets else CTYPES[values.dtype.name]
            only = self.program.only.get(name)
            flat = values.ravel()
            floats = flat.dtype == np.float32
            items = [number(v) for v in flat] if floats else list(map(str, flat.tolist()))
            step = 10 if floats else 32
            lines += [f"#if {' || '.join(KINDS[kind] for kind in only)}"] if only else []
            lines.append(f"TERN_TABLE static const {kind} {name}[{max(1, flat.size)}] = {{")
            lines += [",".join(items[i : i + step]) + "," for i in range(0, len(items), step)] or ["0"]
            lines.append("};")
            lines += ["#endif"] if only else []
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
            prefix = f"{self.upper}_{side.upper()}" + (f"_{index}" if many[side] else "")
            macros.append(f"typedef {CTYPES[entry.dtype]} {self.lower}{prefix[len(self.lower) :].lower()}_type;")
            macros.append(f"#define {prefix}_ELEMENTS {max(1, prod(entry.shape))}")
            quant = program.quants.get((side, index))
            if quant:
                scale = number(np.float32(quant[0]))
                line += f"; in 8 bits uint8 q for the number (q - {quant[1]}) * {scale[:-1]}"
                macros += [f"#define {prefix}_SCALE {scale}", f"#define {prefix}_ZERO_POINT {quant[1]}"]
            lines.append(line)
            if side == "input" and index in program.input_offsets:
                macros.append(f"#define {prefix}_OFFSET {program.input_offsets[index]}")
        if program.input_offsets:
            macros.append(f"#define {self.upper}_ARENA_BYTES_WITH_INPUT {max(ALIGN, program.arena_with_inputs)}")
        quantized = ""
        if program.quants:
            quantized = (
                "\n/* The same for numbers that are in 8 bits already: input q stands for "
                f"(q - {self.upper}_INPUT_ZERO_POINT) * {self.upper}_INPUT_SCALE. */\n"
                f"int {self.lower}_run_quantized({self._parameters(True)});\n"
                f"int {self.lower}_run_quantized_arena(void *arena, size_t arena_bytes, {self._parameters(True)});\n"
            )
        return _HEADER.format(
            notice=self.notice,
            ends="\n   ".join(lines),
            macros="\n".join(macros),
            arena=max(ALIGN, self.plan.arena_bytes or 0),
            tables=program.table_bytes,
            parameters=self._parameters(False),
            quantized=quantized,
            layers=len(program.calls),
            titles=", ".join(f'"{comment(call.title)}"' for call in program.calls),
            lower=self.lower,
            upper=self.upper,
            inputs=_INPUTS.format(upper=self.upper) if program.input_offsets else "",
            weights=self.files.weights,
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
            f"/* {self.notice}\n   Compile this file; {self.files.header} and {self.files.weights} lie beside it. */",
            f'#include "{self.files.header}"',
            _CONFIG,
            f"/* what this network needs of the kernels below */\n{flags}",
            _load("common.c"),
            _load("fma.c"),
            f"typedef {program.offset_dtype}_t tern_offset; /* reaches every element that a row's taps read */\n"
            f"typedef uint{2 * program.offset_bits}_t tern_pair; /* an offset and a weight */",
            *(_load(name, dict(words)) for name, words in kernels),
            *program.operators,
            f'#include "{self.files.weights}"',
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
                    tail = f", the last {buffer.root.tail} only read" if buffer.root.tail else ""
                    what = f"/* {comment(buffer.root.name)}: {buffer.root.nbytes} bytes{tail} */"
                    lines.append(f"    void *const {names[id(buffer.root)]} = arena + {place.offset}; {what}")
        for index, call in enumerate(self.program.calls):
            lines.append(f"    TERN_ON_LAYER({index});")
            lines.append(f"    {self._call(call, names)}")
        lines.append(f"    TERN_ON_LAYER({len(self.program.calls)});")
        if not names:
            lines.insert(0, "    (void)arena;")
        ends = ", ".join(f"{'const ' if side == 'input' else ''}void *{name}" for side, _, _, name in self.ends)
        # Whether the ends are in 8 bits matters only where there is a choice.
        choice = "int quantized, " if self.program.quants else ""
        return f"static void tern_run(uint8_t *arena, {choice}{ends})\n{{\n" + "\n".join(lines) + "\n}"

    def _call(self, call: Call, names: dict[int, str]) -> str:
        def operand(buffer: Buffer | None) -> str:
            if buffer is None:
                return "NULL"
            if id(buffer) in self.program.operands:
                return self.program.operands[id(buffer)]
            place = buffer.root.place
            assert place is not None
            if place.kind == "arena":
                name = names[id(buffer.root)]
            else:
                name = next(end[3] for end in self.ends if end[:2] == (place.kind, place.offset))
            return f"(void *)((uint8_t *){name} + {buffer.start})" if buffer.start else name

        arguments = ", ".join([f"&{call.struct}", *map(operand, call.operands)])
        text = f"{call.function}({arguments});"
        return f"if (quantized) {call.plain}({arguments}); else {text}" if call.plain else text

    def _entries(self) -> str:
        lower, upper = self.lower, self.upper
        names = [name for _, _, _, name in self.ends]
        check = " || ".join(f"!{name}" for name in names)
        parts = []
        for quantized in (False, True)[: 2 if self.program.quants else 1]:
            suffix = "_quantized" if quantized else ""
            choice = f"{int(quantized)}, " if self.program.quants else ""
            parameters, listed = self._parameters(quantized), ", ".join(names)
            parts.append(
                f"int {self.lower}_run{suffix}_arena(void *arena, size_t arena_bytes, {parameters})\n{{\n"
                f"    if (!arena || (uintptr_t)arena % 8 || arena_bytes < {upper}_ARENA_BYTES || {check}) return -1;\n"
                f"    tern_run(arena, {choice}{listed});\n    return 0;\n}}"
            )
            parts.append(
                f"#ifndef {self.upper}_NO_STATIC_ARENA\nint {self.lower}_run{suffix}({parameters})\n{{\n"
                f"    return {lower}_run{suffix}_arena(tern_arena.bytes, {upper}_ARENA_BYTES, {listed});\n}}\n#endif"
            )
        arena = (
            f"#ifndef {self.upper}_NO_STATIC_ARENA\nTERN_ARENA static union {{\n    uint64_t aligned;\n"
            f"    uint8_t bytes[{self.upper}_ARENA_BYTES];\n}} tern_arena TERN_EIGHT;\n#endif"
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


_INPUTS = (
    " An input in 8 bits may lie in an arena of {upper}_ARENA_BYTES_WITH_INPUT bytes, {upper}_INPUT_OFFSET\n"
    "   bytes behind its start; a call overwrites it."
)

_CONFIG = """\
/* What a program may decide: -DTERN_CONFIG='"my_config.h"' names a file that defines any of these. */
#ifdef TERN_CONFIG
#include TERN_CONFIG
#endif
#ifndef TERN_TABLE
#define TERN_TABLE /* where tables lie, such as __attribute__((section(".external_flash"))) */
#endif
#ifndef TERN_ARENA
#define TERN_ARENA /* where the static arena lies, such as __attribute__((section(".dtcm"))) */
#endif
#ifndef TERN_ON_LAYER
#define TERN_ON_LAYER(index) ((void)0) /* before each layer, and behind the last one with its number plus 1 */
#endif"""

_HEADER = """\
/* {notice}

   {ends}

   Nothing is allocated. Tensors between the layers take {upper}_ARENA_BYTES: a static array, or memory of
   yours with the functions that end in _arena, which may run at the same time on different arenas
   (-D{upper}_NO_STATIC_ARENA leaves the static array and the functions that use it away). Of a C library only memcpy
   and memset are used, if at all; there are no other dependencies. All functions return 0, or -1 when a pointer is NULL
   or the arena is too small or not
   aligned to 8 bytes.{inputs} The tables of {weights} take up to {tables} bytes of flash. */
#ifndef {upper}_H
#define {upper}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

{macros}
#define {upper}_ARENA_BYTES {arena}
#define {upper}_LAYERS {layers}
/* As TERN_ON_LAYER of the source counts them: static const char *const names[] = {upper}_LAYER_NAMES; */
#define {upper}_LAYER_NAMES {{ {titles} }}

int {lower}_run({parameters});
int {lower}_run_arena(void *arena, size_t arena_bytes, {parameters});
{quantized}
#ifdef __cplusplus
}}
#endif

#endif
"""
