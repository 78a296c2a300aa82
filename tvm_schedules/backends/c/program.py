"""A network as C: constant tables, one struct for every layer, and the calls in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tvm_schedules.common.dtypes import C_TYPES
from tvm_schedules.common.names import comment
from tvm_schedules.lowering.steps import Buffer
from tvm_schedules.passes.activations import KINDS as FUNCTIONS

__all__ = ["CORES", "KINDS", "Call", "Program", "Ref"]

CTYPES = {name: made.name for name, made in C_TYPES.items()}
SHORT = {name: made.short for name, made in C_TYPES.items()}

CORES = ("plain", "dsp", "mve")
"""Kinds of cores that may have tables of their own, in the order of ``TERN_BY_CORE``."""

KINDS = {
    "plain": "!defined(TERN_DSP)",
    "dsp": "(defined(TERN_DSP) && !defined(TERN_MVE))",
    "mve": "defined(TERN_MVE)",
    "fixed": "defined(TERN_FIXED)",
}
"""Kinds of cores, and when the preprocessor compiles for one; ``fixed``: without floating point."""


@dataclass(frozen=True)
class Ref:
    """A C expression as it stands, such as an array's name."""

    text: str


@dataclass
class Call:
    """One call: ``function(&struct, operands...)``; an operand None is NULL, and ``title`` is the layer's name.

    ``quant`` is set where the call converts an input from float, or an output to float: scale and zero point of the
    8-bit side; ``plain`` is then the function that only copies, for callers that give or take 8 bits themselves.
    """

    function: str
    struct: str
    operands: list[Buffer | None]
    title: str = ""
    quant: tuple[float, int] | None = None
    plain: str | None = None


@dataclass
class Program:
    """What the writer needs.

    Attributes:
        arrays: Constant tables: name -> array.
        offsets: Those of the type ``tern_offset``.
        only: Those that some kinds of cores have, of :data:`KINDS`.
        structs: Text of the layers' descriptions.
        kernels: Source files that are needed, with what takes the place of their placeholders, in order.
        flags: Macros that leave out what this network does not use.
        operators: C of operators without a file in ``source``, in order.
        activations: Activation functions that layers compute, of :data:`tvm_schedules.passes.activations.KINDS`.
        operands: Names of the tables that are operands of calls, by the ``id`` of the buffer.
        calls: In execution order.
        quants: Scale and zero point of the inputs and outputs that callers may give and take in 8 bits, by kind and
            number; empty where some float input has no such form.
        input_offsets: Where inputs in 8 bits may lie in an arena of ``arena_with_inputs`` bytes, by number.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    offsets: set[str] = field(default_factory=set)
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)
    structs: list[str] = field(default_factory=list)
    kernels: dict[tuple[str, tuple[tuple[str, str], ...]], None] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    operators: dict[str, None] = field(default_factory=dict)
    activations: set[str] = field(default_factory=set)
    operands: dict[int, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    quants: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)
    input_offsets: dict[int, int] = field(default_factory=dict)
    arena_with_inputs: int = 0
    largest_offset: int = 0
    _known: dict[tuple[str, str, bytes], str] = field(default_factory=dict)

    def array(self, name: str, values: np.ndarray, offsets: bool = False, only: tuple[str, ...] = ()) -> Ref:
        """A constant table; equal ones are stored once.

        Args:
            name: Of the table.
            values: Its numbers.
            offsets: They are of the type ``tern_offset``.
            only: The kinds of cores that have it, of :data:`KINDS`; none: all.
        """
        key = (f"{values.dtype.name} {offsets} {only}", str(values.size), values.tobytes())
        if key not in self._known:
            self._known[key] = name
            self.arrays[name] = values
            if offsets:
                self.offsets.add(name)
            if only:
                self.only[name] = only
        return Ref(self._known[key])

    def by_core(self, name: str, tables: Mapping[str, np.ndarray]) -> Ref:
        """A table of which every kind of core has its own form; kinds with the same form share it.

        Args:
            name: Of the form of portable C; those of others end with their kind.
            tables: By :data:`CORES`.
        """
        forms: dict[tuple[str, bytes], list[str]] = {}
        for core in CORES:
            forms.setdefault((tables[core].dtype.name, tables[core].tobytes()), []).append(core)
        names: dict[str, str] = {}
        for cores in forms.values():
            own = name if cores[0] == CORES[0] else f"{name}_{cores[0]}"
            made = self.array(own, tables[cores[0]], only=() if len(cores) == len(CORES) else tuple(cores))
            names |= dict.fromkeys(cores, made.text)
        return Ref(f"TERN_BY_CORE({', '.join(names[core] for core in CORES)})")

    def struct(self, kind: str, name: str, fields: Mapping[str, Any], about: str) -> str:
        """The description of a layer; returns its name."""
        text = _braces(fields, 1)
        self.structs.append(f"/* {comment(about)} */\nstatic const struct {kind} {name} = {text};")
        return name

    def need(self, source: str, **words: str) -> None:
        """Asks for a source file with ``@WORD@`` replaced."""
        self.kernels[source, tuple(sorted(words.items()))] = None

    def activates(self, kind: str) -> int:
        """Asks for an activation function behind sums; returns its number in C."""
        self.activations.add(kind)
        self.flag("TERN_ACTIVATIONS")
        return 1 + list(FUNCTIONS).index(kind)

    def flag(self, name: str, value: int = 1) -> None:
        """Raises a macro to at least ``value``."""
        self.flags[name] = max(self.flags.get(name, 0), value)

    def reaches(self, elements: int) -> None:
        """Notes how far offsets into a tensor go."""
        self.largest_offset = max(self.largest_offset, elements)

    @property
    def offset_dtype(self) -> str:
        """The narrowest type for all offsets."""
        return "uint16" if self.largest_offset < 1 << 16 else "uint32"

    @property
    def offset_bits(self) -> int:
        """Its width."""
        return 8 * np.dtype(self.offset_dtype).itemsize

    @property
    def table_bytes(self) -> int:
        """Bytes of all constant tables of a core, the most that any kind has."""
        return max(self.tables_of(core, "fixed") for core in CORES)

    def tables_of(self, *kinds: str) -> int:
        """Bytes of all constant tables of a core that is of these kinds, of :data:`KINDS`."""
        width = np.dtype(self.offset_dtype).itemsize
        sizes = {n: a.size * width if n in self.offsets else a.nbytes for n, a in self.arrays.items()}
        return sum(size for n, size in sizes.items() if set(kinds) & set(self.only.get(n, kinds)))


def _braces(fields: Mapping[str, Any], depth: int) -> str:
    indent = "    " * depth
    lines, line = [], indent
    for name, value in fields.items():
        item = f".{name} = {_value(value, depth + 1)},"
        if len(line) + len(item) > 110 and line.strip():
            lines.append(line.rstrip())
            line = indent
        line += item + " "
    return "{\n" + "\n".join([*lines, line.rstrip()]) + "\n" + "    " * (depth - 1) + "}"


def _value(value: Any, depth: int) -> str:
    if isinstance(value, Ref):
        return value.text
    if isinstance(value, Mapping):
        return _braces(value, depth)
    if isinstance(value, list | tuple):
        return "{" + ", ".join(_value(v, depth) for v in value) + "}"
    if isinstance(value, float | np.floating):
        return number(np.float32(value))
    return str(int(value))


def number(value: np.float32) -> str:
    """A float32 as a C constant that reads back as the same number.

    >>> number(np.float32(0.1)), number(np.float32(3)), number(np.float32(1e-20))
    ('0.1f', '3.0f', '1e-20f')
    """
    return f"{np.float32(value)!s}f"
