"""Compiles ``model.c`` for this machine and calls it: for verification, and for everyone who wants to try it out."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.artifact.load import Model
from tvm_schedules.backends import toolchain as linking
from tvm_schedules.backends.c.writer import SOURCE
from tvm_schedules.errors import ArtifactError, InputError, LinkError
from tvm_schedules.ir.plan import Plan
from tvm_schedules.runtime.samples import arguments, describe, in_turn, pieces, room
from tvm_schedules.runtime.turns import take_turns

__all__ = ["HostModel", "compile_library"]

Array = npt.NDArray[Any]
OPTIONS = ("-std=c99", "-O2")


def compile_library(folder: Path, output: Path, options: Sequence[str] = ()) -> None:
    """Compiles the C files in ``folder`` into a shared library for this machine.

    Args:
        folder: Holds model.c, model.h and model_weights.h.
        output: The library.
        options: More options for the compiler.

    Raises:
        LinkError: No C compiler, or it failed.
    """
    command = [*linking.linker(None), *OPTIONS, *options, "-o", str(output), str(folder / SOURCE)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        raise LinkError(f"compiling {SOURCE} failed: {' '.join(command)}\n{done.stdout[-2000:]}")


class HostModel(Model):
    """The C form of a network on this machine, compiled by its C compiler; one thread."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        metadata: dict[str, Any] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.plan, self.metadata, self.threads = plan, metadata or {}, 1
        self.inputs, self.outputs = (
            [entry.to_json() for entry in plan.inputs],
            [entry.to_json() for entry in plan.outputs],
        )
        self._lock = take_turns(self)
        with tempfile.TemporaryDirectory() as place:  # the library stays mapped after its file is gone
            library = Path(place) / "model.so"
            compile_library(folder, library, options)
            self._library = ctypes.CDLL(str(library))

    def __repr__(self) -> str:
        return f"HostModel({describe(self.inputs)} -> {describe(self.outputs)})"

    def __copy__(self) -> Model:
        """Another one, loaded from the same artifact."""
        again, its = self.__reduce__()
        return again(*its)

    def run_steps(self, begin: int, end: int) -> None:
        """The C form has no steps that run alone.

        Raises:
            ArtifactError: Always.
        """
        raise ArtifactError("the C form of a network runs as a whole; single steps run in a library made with TVM")

    def run_quantized(self, *args: Array, **named: Array) -> Any:
        """Runs ``model_run_quantized``: inputs and outputs that have a ``quant`` in the plan are uint8.

        Raises:
            InputError: The network has no such function; or as for a call.
        """
        if not any("quant" in entry for entry in self.inputs):
            raise InputError("the network's inputs have no 8-bit form")
        inputs, outputs = (
            [{**entry, "dtype": "uint8" if "quant" in entry else entry["dtype"]} for entry in entries]
            for entries in (self.inputs, self.outputs)
        )
        arrays, count = arguments(inputs, args, named)

        def once(given: Sequence[Array]) -> list[Array]:
            return self._once("model_run_quantized", given, outputs)

        with self._lock:
            if count is None:
                results = once(arrays)
            else:
                results = room(outputs, count)
                in_turn(inputs, arrays, results, pieces(count, outputs[0]["shape"][0]), once)
        return results[0] if len(results) == 1 else tuple(results)

    def _run(self, arrays: Sequence[Array]) -> list[Array]:
        return self._once("model_run", arrays, self.outputs)

    def _run_pieces(self, arrays: Sequence[Array], results: Sequence[Array], parts: Sequence[slice]) -> None:
        in_turn(self.inputs, arrays, results, parts, self._run)

    def _once(self, function: str, arrays: Sequence[Array], outputs: Sequence[dict[str, Any]]) -> list[Array]:
        """Call a function of the library with inputs of the compiled shapes. The lock is held."""
        arrays = [np.ascontiguousarray(array) for array in arrays]
        results = [np.zeros(entry["shape"], entry["dtype"]) for entry in outputs]
        status = getattr(self._library, function)(*(ctypes.c_void_p(a.ctypes.data) for a in (*arrays, *results)))
        if status:
            raise RuntimeError(f"{function} returned {status}")
        return results
