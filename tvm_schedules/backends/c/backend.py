"""C source without TVM: one file for every board with a C compiler; its tables are the weights."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.backends import toolchain
from tvm_schedules.backends.base import Backend, Compiled, Say, Stored, quiet
from tvm_schedules.backends.c.files import DEFAULT, MODEL, Files, is_ours, is_sample
from tvm_schedules.common import names
from tvm_schedules.common.version import __version__
from tvm_schedules.errors import ArtifactError, LinkError
from tvm_schedules.ir.graph import Graph
from tvm_schedules.ir.plan import Plan
from tvm_schedules.runtime.model import Model
from tvm_schedules.targets.registry import TargetSpec

if TYPE_CHECKING:
    from tvm_schedules.backends.c.compile import CProgram
    from tvm_schedules.backends.c.runtime import CModel
    from tvm_schedules.lowering.schedule_config import ScheduleConfig

__all__ = ["BACKEND", "CBackend", "write_sample"]

Array = npt.NDArray[Any]
_MOST = 1 << 16
"""Elements of a sample that are still written as text."""


class _Source(Compiled):
    """A network as C."""

    def __init__(self, made: CProgram, files: Files) -> None:
        self.plan, self.arrays = made.plan, {}
        self._program, self._files = made.program, files

    def write(self, folder: Path, say: Say) -> dict[str, Any]:
        """Writes the C files and says how much memory they take.

        The plan's details get ``cortex_m7``: sizes on a Cortex-M7, None where zig is not there to measure them.
        """
        from tvm_schedules.backends.c.size import cortex_m7, told
        from tvm_schedules.backends.c.writer import write

        write(self.plan, self._program, folder, __version__, self._files)
        try:
            sizes = cortex_m7(folder / self._files.source)
        except LinkError as error:
            say(f"sizes on a Cortex-M7 are not known: {str(error).splitlines()[0]}")
            sizes = None
        self.plan = replace(self.plan, details={"cortex_m7": sizes})
        for line in told(self.plan):
            say(line)
        return {}


def _files(tvm: Mapping[str, Any]) -> Files:
    """The names of the files of a target, or of an artifact made for it.

    Raises:
        ArtifactError: An artifact's metadata hold no name.
    """
    try:
        return Files(names.prefix(str(tvm.get("prefix", DEFAULT))))
    except ValueError as error:
        raise ArtifactError(f"the artifact cannot be used: {error}") from None


def write_sample(folder: Path, run: Mapping[str, Array], outputs: list[Array], files: Files = MODEL) -> bool:
    """Writes one input and the output of the C code as a header, for a self-test on the device.

    Args:
        folder: Holds the artifact.
        run: The inputs by name.
        outputs: What the C code makes of them.
        files: Its files' names.

    Returns:
        Whether it was written: larger samples than :data:`_MOST` elements are not.
    """
    from tvm_schedules.backends.c.program import CTYPES, number

    inputs = list(run.values())
    if sum(array.size for array in (*inputs, *outputs)) > _MOST:
        return False
    prefix = files.prefix
    lines = [f"/* An input, and the output that {prefix}_run gives for it, bit for bit. */", "#include <stdint.h>"]
    for side, arrays in (("input", inputs), ("output", outputs)):
        for index, array in enumerate(arrays):
            name = f"{prefix}_sample_{side}" + (f"_{index}" if len(arrays) > 1 else "")
            flat = array.ravel()
            items = [number(v) for v in flat] if flat.dtype == np.float32 else list(map(str, flat.tolist()))
            lines.append(f"static const {CTYPES[array.dtype.name]} {name}[] = {{")
            lines += [",".join(items[i : i + 10]) + "," for i in range(0, len(items), 10)] + ["};"]
    (folder / files.sample).write_text("\n".join(lines) + "\n")
    return True


class CBackend(Backend):
    """C source, as :class:`~tvm_schedules.backends.base.Backend` asks for it."""

    files = (*MODEL.sources, MODEL.sample)
    not_run = (MODEL.sample,)
    batch_sizes = False
    stored_weights = False

    def has_file(self, name: str) -> bool:
        """C, whatever its prefix."""
        return is_ours(name)

    def needs_file(self, name: str) -> bool:
        """All but the sample."""
        return is_ours(name) and not is_sample(name)

    def check(self, spec: TargetSpec | None, verify: bool) -> None:
        """A C compiler is needed only to verify."""
        if verify:
            toolchain.linker(None)

    def compile(
        self, graph: Graph, spec: TargetSpec, say: Say = quiet, configs: Mapping[str, ScheduleConfig] | None = None
    ) -> Compiled:
        """See :class:`~tvm_schedules.backends.base.Backend`."""
        from tvm_schedules.backends.c.compile import compile_graph

        return _Source(compile_graph(graph, spec, say), _files(spec.tvm))

    def in_memory(self, graph: Graph, spec: TargetSpec) -> CModel:
        """Writes, compiles and loads a network without leaving anything on the disk."""
        from tvm_schedules.backends.c.compile import compile_graph
        from tvm_schedules.backends.c.runtime import CModel
        from tvm_schedules.backends.c.writer import write

        made = compile_graph(graph, spec)
        with tempfile.TemporaryDirectory() as place:
            write(made.plan, made.program, Path(place), "")
            return CModel(Path(place), made.plan)

    def unavailable(self, spec: TargetSpec) -> str | None:
        """A C compiler is everywhere, and :meth:`check` has asked for it."""
        return None

    def finish(self, folder: Path, model: Model, run: Mapping[str, Array]) -> None:
        """Adds a sample, see :func:`write_sample`."""
        result = model(**run)
        files = _files(model.metadata["target"]["tvm"])
        write_sample(folder, run, list(result) if isinstance(result, tuple) else [result], files)

    def load(self, stored: Stored, threads: int | None) -> CModel:
        """Compiles the files for this machine; one thread runs them."""
        from tvm_schedules.backends.c.runtime import CModel

        files = _files(stored.metadata["target"]["tvm"])
        with tempfile.TemporaryDirectory() as place:
            for name in files.sources:
                (Path(place) / name).write_bytes(stored.content(name))
            return CModel(Path(place), stored.plan, stored.metadata, files=files)

    def loaded_files(self, metadata: Mapping[str, Any]) -> tuple[str, ...]:
        """The source and the tables."""
        return _files(metadata["target"]["tvm"]).sources

    def notes(self, plan: Plan) -> list[str]:
        """How much memory it takes."""
        from tvm_schedules.backends.c.size import told

        return told(plan)

    def not_measured(self) -> str:
        """It runs elsewhere, without this package."""
        return "is C source: compile it for the board and time it there, as examples/c does"


BACKEND = CBackend()
