"""What the translations of all kernels into C have in common: stored numbers, codes, epilogues, layouts."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_schedules.backends.c.codes import encode
from tvm_schedules.backends.c.fixed import fixed
from tvm_schedules.backends.c.kernels.common.copying import parted_fields
from tvm_schedules.backends.c.layout import Parted
from tvm_schedules.backends.c.program import CTYPES, SHORT, Call, Program, Ref
from tvm_schedules.ir.layout import Halo
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.constant_pool import Constants
from tvm_schedules.lowering.epilogue import Epilogue
from tvm_schedules.lowering.steps import Buffer, Step
from tvm_schedules.packing.registry import window_from

__all__ = ["NULL", "SUMS", "Translation", "operands", "tap_offsets", "type_words"]

Numbers = dict[str, np.ndarray]
NULL = Ref("NULL")
SUMS = {"i16": "int16_t", "i32": "int32_t", "f32": "float"}
"""Types of the sums that an epilogue takes: exact ones of bytes in 16 and 32 bits, and floats."""


class Translation:
    """The program that is being made, and where its numbers come from.

    Attributes:
        program: The program as far as it has been translated.
        lists: Scratch memory in entries that are as wide as offsets will turn out to be.
    """

    def __init__(self, constants: Constants) -> None:
        self.program = Program()
        self.lists: list[Buffer] = []
        self._constants = constants
        self._entries = {
            span.offset: entry
            for entry in reversed(constants.entries)
            for span in entry.outputs.values()
            if span.nbytes
        }

    def stored(self, buffer: Buffer) -> tuple[Numbers, dict[str, Any]]:
        """The stored arrays that a constant buffer is made of, and the packing's parameters."""
        assert buffer.place is not None
        entry = self._entries[buffer.place.offset]
        return {name: self._constants.arrays[key] for name, key in entry.arrays.items()}, dict(entry.params)

    def scratch(self, step: Step, entries: int, width: int | None = None) -> Buffer:
        """Memory for one step: entries of ``width`` bytes, or as wide as offsets will turn out to be."""
        buffer = Buffer(f"{step.name}/scratch", entries * (width or 1))
        step.args.append(buffer)
        if width is None:
            self.lists.append(buffer)
        return buffer

    def finish(
        self, index: int, x: Halo, ep: Epilogue, numbers: Numbers, sums: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Fields of a ``struct tern_finish``.

        Args:
            index: Of the step.
            x: Layout of the input, at whose pitch pixels are computed.
            ep: The static part of the epilogue.
            numbers: ``scale``, ``bias`` and ``params``.
            sums: The largest absolute sum of every channel, where sums are integers.
        """
        out, residual, program = ep.out, ep.residual, self.program
        program.flag("TERN_FLOAT_OUTPUT", int(out.dtype == "float32"))
        if residual:
            program.flag("TERN_FLOAT_RESIDUAL" if residual.dtype == "float32" else "TERN_BYTE_RESIDUAL")
        factor, low, high, _, *after = numbers["params"]
        activation = {}
        if ep.activation:
            sums = None  # its values are no whole numbers
            activation = {"activation": program.activates(ep.activation), "step": after[0], "zero": after[1]}
        steps = out.steps()
        planes: dict[str, Any] = {"plane": out.plane, "origin": out.origin, "front": out.front, "end": out.end}
        planes |= dict(zip(("depth", "height", "width"), out.grid, strict=True))
        planes |= {"slice": steps[0], "row": steps[1], "fill": Ref(f"{np.float32(out.fill)!s}f")}
        if isinstance(out, Parted):
            self.need_copy("uint8", "uint8")
            about = "its planes, one after the other, into phases"
            name = program.struct("tern_repack", f"phases_{index}", parted_fields(out, x.pitch), about)
            planes |= {"plane": 0, "origin": out.raw, "phases": Ref(f"&{name}")}
            program.flag("TERN_PHASES")
        elif x.pitch[1] != out.pitch[1] and out.grid[1] > 1:
            planes["from_row"] = x.pitch[1]
            program.flag("TERN_MOVED_ROWS")
        return {
            "scale": program.array(f"scale_{index}", numbers["scale"]),
            "bias": program.array(f"bias_{index}", numbers["bias"]),
            "factor": factor,
            "low": low,
            "high": high,
            "residual_plane": residual.plane if residual else 0,
            "residual_origin": residual.origin if residual else 0,
            "residual_float": residual is not None and residual.dtype == "float32",
            "output_float": out.dtype == "float32",
            "channels": out.channels,
            "run": x.run(ep.size),
            "out": planes,
            **activation,
            **self.fixed(index, ep.out.dtype, ep.residual.dtype if ep.residual else None, numbers, sums),
        }

    def fixed(
        self, index: int, out: str, residual: str | None, numbers: Numbers, sums: np.ndarray | None
    ) -> dict[str, Any]:
        """Fields of an epilogue in whole numbers; none where it is made of floats on every core.

        Args:
            index: Of the step.
            out: Type of the output.
            residual: Type of the residual, if there is one.
            numbers: ``scale``, ``bias`` and ``params``.
            sums: The largest absolute sum of every channel, where sums are integers.
        """
        if sums is None or out != "uint8" or residual == "float32":
            return {}
        factor, low, high, _ = numbers["params"]
        found = fixed(numbers["scale"], numbers["bias"], float(factor) if residual else 0.0, sums)
        if found is None:
            return {}
        table = self.program.array(f"fixed_{index}", found.table, only=("fixed",))
        return {
            "fixed": Ref(f"TERN_FIXED_TABLE({table.text})"),
            "fixed_residual": found.residual,
            "fixed_shift": found.shift,
            "fixed_bits": found.bits,
            "fixed_near": found.near,
            "fixed_low": np.rint(low).astype(int),
            "fixed_high": np.rint(high).astype(int),
        }

    def need_finish(self, sums: str) -> None:
        """Asks for the epilogue of sums of a type of :data:`SUMS`."""
        self.program.need("mve.c")
        self.program.need("finish.c")
        if sums != "f32":
            self.program.need("finish_fixed.c", S=sums, SUM=SUMS[sums])
        self.program.need("finish_sums.c", S=sums, SUM=SUMS[sums])

    def need_copy(self, source: str, target: str) -> str:
        """Asks for copies between two types; returns how the name of their function ends."""
        convert = {
            ("float32", "uint8"): "tern_quantize(\\1, l->scale, l->zero_point, l->low, l->high)",
            ("uint8", "float32"): "((float)\\1 - l->zero_point) * l->scale",
        }.get((source, target), "\\1")
        if target == "uint8" and source == "float32":
            self.program.need("quantize.c")
        self.program.need("repack.c")
        words = {"X": SHORT[source], "XTYPE": CTYPES[source], "Y": SHORT[target], "YTYPE": CTYPES[target]}
        self.program.need("repack_from_to.c", **words, CONVERT=convert)
        return f"{SHORT[source]}_{SHORT[target]}"

    def codes(self, index: int, codes: np.ndarray, taps: np.ndarray, channel: int) -> dict[str, Any]:
        """Codes ``[terms, rows, channels, taps]`` in the order of the taps' addresses."""
        terms, rows, channels = codes.shape[:3]
        order = np.argsort(taps, kind="stable")
        flat = codes[..., order].transpose(1, 0, 2, 3).reshape(rows * terms, -1)
        data, gaps = encode(flat)
        self.program.flag("TERN_GAPS" if gaps else "TERN_TRITS")
        self.program.flag("TERN_TERMS", terms)
        return {
            # Gaps are read up to eight at a time.
            "data": self.program.array(f"weight_{index}", np.pad(data, (0, 7 if gaps else 0))),
            "tap": self.program.array(f"tap_{index}", taps[order], offsets=True),
            "channels": channels,
            "taps": len(taps),
            "channel": channel,
            "capacity": int(np.count_nonzero(flat, axis=1).max(initial=0)) + 1,
            "gaps": gaps,
        }

    def levels(self, index: int, weight: TernaryTensor) -> tuple[Ref, int]:
        """``[rows, terms, 2]`` levels and which terms have unequal ones; NULL for one term of equal levels."""
        full = weight.per_channel
        unequal = [not np.array_equal(p, n) for p, n in zip(full.positive, full.negative, strict=True)]
        if len(unequal) == 1 and not unequal[0]:
            return NULL, 0
        levels = np.ascontiguousarray(np.stack([full.positive, full.negative], -1).transpose(1, 0, 2))
        return self.program.array(f"level_{index}", levels), sum(1 << t for t, apart in enumerate(unequal) if apart)

    def geometry(self, x: Halo, rows: int, groups: int) -> dict[str, int]:
        """Fields that say where the groups and images of a convolution's input are."""
        per_channel = x.phases * x.plane
        self.program.reaches(x.channels // groups * per_channel)
        return {
            "images": x.batch,
            "rows": rows,
            "group_rows": rows // groups,
            "image": x.channels * per_channel,
            "group": x.channels // groups * per_channel,
        }

    def call(self, index: int, step: Step, kind: str, suffix: str, fields: dict[str, Any], args: list[Any]) -> None:
        """Appends a layer's description and its call."""
        about = f"{step.name}: {step.info.get('reason', step.kernel)}"
        name = self.program.struct(f"tern_{kind}", f"layer_{index}", fields, about)
        self.program.calls.append(Call(f"tern_{kind}_{suffix}", name, args, step.name))

    def epilogue_numbers(self, buffers: list[Buffer]) -> Numbers:
        """Scale, bias and params of an epilogue, from its three buffers."""
        numbers: Numbers = {}
        for name, buffer in zip(("scale", "bias", "params"), buffers, strict=True):
            numbers[name] = self.stored(buffer)[0][name]
        return numbers


def tap_offsets(x: Halo, window: dict[str, Any]) -> np.ndarray:
    """Offsets of a channel's taps, in the weight's order."""
    return np.array([x.offset(0, phase, shift) for phase, shift in window_from(window).taps()])


def operands(ep: Epilogue, args: list[Buffer]) -> tuple[Buffer | None, Buffer]:
    """Residual and output of a kernel that ends with an epilogue."""
    kept = [arg for arg in args if not arg.name.endswith("/scratch")]
    return (kept[-2] if ep.residual else None), kept[-1]


def type_words(x: str, weight: str = "") -> dict[str, str]:
    """Placeholders for the types of the input and the weight."""
    words: dict[str, str] = {}
    for letter, dtype in (("X", x), ("W", weight)):
        if dtype:
            words |= {letter: SHORT[dtype], f"{letter}TYPE": CTYPES[dtype]}
    return words
