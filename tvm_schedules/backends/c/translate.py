"""Translates the steps of a lowered network into a :class:`Program`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_schedules.backends.c.kernels.common.translation import Translation
from tvm_schedules.backends.c.operators.elementwise import functions
from tvm_schedules.backends.c.parts import Part, part_of
from tvm_schedules.backends.c.program import Call, Program
from tvm_schedules.backends.c.site import MATH
from tvm_schedules.lowering.constant_pool import Constants
from tvm_schedules.lowering.steps import Buffer, Step

__all__ = ["translate"]

_FLAGS = (
    "TERN_TRITS", "TERN_GAPS", "TERN_LISTS", "TERN_EACH_WEIGHT", "TERN_LEVELS", "TERN_LONG_ROWS", "TERN_LINEAR_CODES",
    "TERN_FLOAT_OUTPUT", "TERN_FLOAT_RESIDUAL", "TERN_BYTE_RESIDUAL", "TERN_MOVED_ROWS", "TERN_PHASES", "TERN_SHARES",
    "TERN_ACTIVATIONS",
)  # fmt: skip


class _Translation(Translation):
    """One that gives parts of layers their rows of what is stored."""

    part: Part | None = None

    def stored(self, buffer: Buffer) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """See :class:`Translation`."""
        stored, params = super().stored(buffer)
        return (stored, params) if self.part is None else part_of(self.part, stored, params)


def translate(steps: list[Step], constants: Constants, inputs: list[str]) -> Program:
    """Translates all steps, in order; scratch memory is added to their buffers.

    Args:
        steps: As lowered for C: what makes a step's code takes the translation, the step's index and the step.
        constants: Their numbers.
        inputs: dtypes of the network's inputs.
    """
    translation = _Translation(constants)
    program = translation.program
    for index, step in enumerate(steps):
        translation.part = step if isinstance(step, Part) else None
        step.make()(translation, index, step)
    if program.activations:
        program.operators |= dict.fromkeys((MATH, functions(program.activations)))
    _find_quantized_ends(translation, inputs)
    for buffer in translation.lists:
        buffer.nbytes *= np.dtype(program.offset_dtype).itemsize
    for name in _FLAGS:
        program.flag(name, 0)
    return program


def _find_quantized_ends(translation: Translation, inputs: list[str]) -> None:
    """Finds out which inputs and outputs have an 8-bit form."""
    program = translation.program
    calls: dict[tuple[str, int], list[Call]] = {}
    for call in program.calls:
        for buffer in call.operands:
            place = buffer.root.place if buffer else None
            if place is not None and place.kind in ("input", "output"):
                calls.setdefault((place.kind, place.offset), []).append(call)
    quants = {}
    for end, found in calls.items():
        forms = {call.quant for call in found}
        form = forms.pop()
        if form is not None and not forms:
            quants[end] = form
    floats = [("input", index) for index, dtype in enumerate(inputs) if dtype == "float32"]
    if not floats or not set(floats) <= set(quants):
        return
    program.quants = quants
    for end in quants:
        for call in calls[end]:
            call.plain = f"tern_repack_{translation.need_copy('uint8', 'uint8')}"
