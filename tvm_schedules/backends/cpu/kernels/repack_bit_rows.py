"""Bits of the inputs of a linear layer, in the form in which :mod:`.popcount_linear` broadcasts them.

Bound by shifts; there is little to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.packing.bitplanes import WORD
from tvm_schedules.packing.popcount_linear import CHUNK, groups_of

__all__ = ["NAME", "Spec", "emit"]
NAME = "input_bits"
"""What artifacts and tuning databases call this kernel."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        batch: Rows.
        inputs: Inputs a row.
        planes: Bits an input.
    """

    batch: int
    inputs: int
    planes: int

    @property
    def groups(self) -> int:
        """Bytes a row and plane."""
        return groups_of(self.inputs)


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, out``; ``out`` is uint32 ``[batch, planes, groups]``, each byte four times.

    Up to a chunk past the last input is read; weights are zero there.
    """
    size, u16, u32 = WORD, f"uint16x{WORD // 2}", f"uint32x{WORD}"

    def body(e: Emitter, *pointers: Any) -> None:
        x = e.view(pointers[0], spec.batch * spec.inputs + CHUNK, "uint8")
        out = e.view(pointers[1], spec.batch * spec.planes * spec.groups, "uint32")
        with e.jobs(spec.batch, False) as m, e.loop(spec.groups // WORD) as c:
            first = m * spec.inputs + c * CHUNK
            values = [e.bits(e.load(x, first + j * size, size), u16) for j in range(WORD)]
            for b in range(spec.planes):
                total: Any = None
                for j, value in enumerate(values):
                    bit, shift = value & e.const(0x0101 << b, u16), e.const(abs(j - b), u16)
                    bit = bit << shift if j > b else bit >> shift if j < b else bit
                    total = bit if total is None else total | bit
                wide = e.cast(e.bits(total, f"uint8x{WORD}"), u32) * e.const(0x01010101, u32)
                e.store(out, (m * spec.planes + b) * spec.groups + c * WORD, wide, WORD)

    return kernel_function([("x", "uint8"), ("out", "uint32")], body)
