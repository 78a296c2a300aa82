"""Compiles a network in C for this machine and calls it: for verification, and for everyone who wants to try it out."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.backends import toolchain as linking
from tvm_schedules.backends.c.files import MODEL, Files
from tvm_schedules.errors import InputError, LinkError
from tvm_schedules.ir.plan import Plan
from tvm_schedules.runtime.model import Model
from tvm_schedules.runtime.samples import arguments, in_turn, pieces, room

__all__ = ["CModel", "compile_library"]

Array = npt.NDArray[Any]
OPTIONS = ("-std=c99", "-O2")


def compile_library(source: Path, output: Path, options: Sequence[str] = ()) -> None:
    """Compiles the C of a network into a shared library for this machine.

    Args:
        source: The file to compile, with its headers beside it.
        output: The library.
        options: More options for the compiler.

    Raises:
        LinkError: No C compiler, or it failed.
    """
    command = [*linking.linker(None), *OPTIONS, *options, "-o", str(output), str(source)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        raise LinkError(f"compiling {source.name} failed: {' '.join(command)}\n{done.stdout[-2000:]}")


class CModel(Model):
    """The C form of a network on this machine, compiled by its C compiler; one thread."""

    what = "C code"

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        metadata: dict[str, Any] | None = None,
        options: Sequence[str] = (),
        files: Files = MODEL,
    ) -> None:
        super().__init__(plan, metadata, threads=1)
        with tempfile.TemporaryDirectory() as place:  # the library stays mapped after its file is gone
            library = Path(place) / "model.so"
            compile_library(folder / files.source, library, options)
            self._library = ctypes.CDLL(str(library))
        self._function = f"{files.prefix}_run"

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
            return self._once(f"{self._function}_quantized", given, outputs)

        with self._lock:
            if count is None:
                results = once(arrays)
            else:
                results = room(outputs, count)
                in_turn(inputs, arrays, results, pieces(count, outputs[0]["shape"][0]), once)
        return results[0] if len(results) == 1 else tuple(results)

    def _run(self, arrays: Sequence[Array]) -> list[Array]:
        return self._once(self._function, arrays, self.outputs)

    def _once(self, function: str, arrays: Sequence[Array], outputs: Sequence[dict[str, Any]]) -> list[Array]:
        """Call a function of the library with inputs of the compiled shapes. The lock is held."""
        arrays = [np.ascontiguousarray(array) for array in arrays]
        results = [np.zeros(entry["shape"], entry["dtype"]) for entry in outputs]
        status = getattr(self._library, function)(*(ctypes.c_void_p(a.ctypes.data) for a in (*arrays, *results)))
        if status:
            raise RuntimeError(f"{function} returned {status}")
        return results
