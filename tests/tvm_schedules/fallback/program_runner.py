"""Runs a FallbackProgram by itself: one exported function with an arena, as the compiler makes it, unplanned.

All memory lies between pages that may not be touched.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from tests.tvm_schedules.guarded import Guarded
from tvm_schedules import compat
from tvm_schedules.backends.cpu.schedules import schedule_program
from tvm_schedules.fallback.program import FallbackProgram, lower_fallback
from tvm_schedules.targets.registry import TargetSpec, resolve


class Runnable:
    """A compiled program: call it with numpy arrays, get a list of numpy arrays."""

    def __init__(self, program: FallbackProgram, target: TargetSpec) -> None:
        import tvm

        self.program = program
        places: dict[str, int] = {}
        size = 0
        sizes = {n: math.prod(s) * np.dtype(d).itemsize for n, (s, d) in program.temporaries.items()}
        sizes.update({n: a.nbytes for n, a in program.constants.items()})
        for name, nbytes in sizes.items():
            places[name] = size
            size += -(-nbytes // 64) * 64 + 64
        image = np.zeros(size + 64, "uint8")
        for name, array in program.constants.items():
            image[places[name] : places[name] + array.nbytes] = np.frombuffer(array.tobytes(), "uint8")
        self.arena = Guarded(image)
        exported = [n for n in program.outputs if n not in program.aliases]
        tensors = [*program.inputs.items(), *((n, program.outputs[n]) for n in exported)]
        parameters = [(f"p{i}", tuple(t[0]), t[1]) for i, (_, t) in enumerate(tensors)]
        variables = {name: tvm.ir.GlobalVar(name) for name in program.functions}

        def body(e: Any, *buffers: Any) -> None:
            from tvm.script.ir_builder import tirx as builder

            pointers = {name: b.data for (name, _), b in zip(tensors, buffers, strict=False)}
            arena = buffers[-1]
            for call in program.calls:
                args = [pointers[a] if a in pointers else builder.address_of(arena[places[a]]) for a in call.args]
                compat.call_private(variables[call.function], program.functions[call.function], args)

        main = compat.main_function("main", [*parameters, ("arena", (size + 64,), "uint8")], [], body)
        functions = {name: (variables[name], f) for name, f in program.functions.items()}
        self.library = compat.build_module(functions, main, target.tvm)
        self.function = self.library["main"]
        self.exported = exported

    def prepare(self, inputs: dict[str, np.ndarray]) -> tuple[list[Any], dict[str, Guarded]]:
        arrays = {n: np.array(inputs[n], order="C") for n in self.program.inputs}
        results = {n: np.full(s, 77, d) for n, (s, d) in self.program.outputs.items() if n in self.exported}
        kept = {n: Guarded(a) for n, a in {**arrays, **results}.items()}
        return [*(kept[n].tensor() for n in (*arrays, *results)), self.arena.tensor()], kept

    def __call__(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        args, tensors = self.prepare(inputs)
        self.function(*args)
        values = {n: np.array(kept.array) for n, kept in tensors.items()}
        values.update(self.program.constants)
        return [values[self.program.aliases.get(n, n)].reshape(shape) for n, (shape, _) in self.program.outputs.items()]


def compile_onnx(model: onnx.ModelProto, target: str | TargetSpec = "host") -> Runnable:
    spec = resolve(target) if isinstance(target, str) else target
    return Runnable(lower_fallback(model, spec, "f_", schedule_program), spec)
