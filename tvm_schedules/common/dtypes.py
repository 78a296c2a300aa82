"""Element types of tensors: one table for everything that writes or reads them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tvm_schedules.errors import ModelError

__all__ = ["C_TYPES", "TYPES", "TypeOfC", "check_type"]


class TypeOfC(NamedTuple):
    """A type in the C back end: how C calls it, and how the kernels' names do."""

    name: str
    short: str


TYPES: dict[str, TypeOfC | None] = {
    "bool": None,
    "int8": TypeOfC("int8_t", "i8"),
    "int16": None,
    "int32": TypeOfC("int32_t", "i32"),
    "int64": TypeOfC("int64_t", "i64"),
    "uint8": TypeOfC("uint8_t", "u8"),
    "uint16": None,
    "uint32": None,
    "uint64": None,
    "float16": None,
    "float32": TypeOfC("float", "f32"),
    "float64": None,
}
"""What a network's inputs, outputs, constants and stored arrays may be, by numpy's names; None has no code in C."""

C_TYPES = {name: made for name, made in TYPES.items() if made}


def check_type(dtype: Any, what: str) -> str:
    """The name of a type of the table.

    Args:
        dtype: A numpy type, or its name.
        what: Whose type it is, for the message.

    Raises:
        ModelError: Another type, or bytes in another order than this machine's.
    """
    found = np.dtype(dtype)
    if found.name not in TYPES or not found.isnative:
        raise ModelError(f"{what} has elements of type {found.name}; possible are {', '.join(TYPES)}")
    return found.name
