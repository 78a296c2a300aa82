"""Bit planes of activations of few bits: a byte of a plane holds one bit of eight neighboring channels of a pixel.

The words of weights that go with them are those of :mod:`tvm_schedules.packing.bitplanes`.

Bound by shifts: one operation a channel, plane and vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.layout import Halo
from tvm_schedules.packing.bitplanes import WORD

__all__ = ["NAME", "Spec", "emit"]
NAME = "bitplanes"
"""What artifacts and tuning databases call this kernel."""


@dataclass(frozen=True)
class Spec:
    """Specing of one tensor.

    Args:
        x: Layout of the bytes.
        out: Layout of the bit planes: channel ``(group * words + word) * planes + plane``.
        groups: Groups of channels; words do not reach across them.
        vector: Bytes a vector register.
        parallel: Whether threads share the jobs.
    """

    x: Halo
    out: Halo
    groups: int
    vector: int
    parallel: bool

    @property
    def planes(self) -> int:
        """Bit planes."""
        return self.out.channels // (self.groups * self.words)

    @property
    def fan(self) -> int:
        """Channels a group."""
        return self.x.channels // self.groups

    @property
    def words(self) -> int:
        """Words a group."""
        return -(-self.fan // WORD)


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, out``. Whole planes are packed, halos included."""
    x, out, planes = spec.x, spec.out, spec.planes
    distance, size = x.phases * x.plane, spec.vector
    u8, u16 = f"uint8x{size}", f"uint16x{size // 2}"

    def body(e: Emitter, *pointers: Any) -> None:
        bx, bo = e.view(pointers[0], x.elements, "uint8"), e.view(pointers[1], out.elements, "uint8")

        def word(first: Any, target: Any, channels: int) -> None:
            with e.loop(distance // size) as i:
                pixels = [e.bits(e.load(bx, first + (j * distance + i * size), size), u16) for j in range(channels)]
                for b in range(planes):
                    total: Any = None
                    for j, value in enumerate(pixels):
                        bit = value & e.const(0x0101 << b, u16)
                        shift = e.const(abs(j - b), u16)
                        bit = bit << shift if j > b else bit >> shift if j < b else bit
                        total = bit if total is None else total | bit
                    e.store(bo, target + (b * distance + i * size), e.bits(total, u8), size)

        with e.jobs(x.batch * spec.groups * spec.words, spec.parallel) as job:
            group, w = job // spec.words, job % spec.words
            first, target = (group * spec.fan + w * WORD) * distance, job * (planes * distance)
            last = spec.fan - (spec.words - 1) * WORD
            if spec.words > 1:
                with e.when(w < spec.words - 1):
                    word(first, target, WORD)
            with e.when(w == spec.words - 1):
                word(first, target, last)

    return kernel_function([("x", "uint8"), ("out", "uint8")], body)
