"""What is in an artifact of the target ``c``, how it is written and loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.backends.c.lower import compile_portable
from tvm_schedules.backends.c.program import CTYPES, number
from tvm_schedules.backends.c.runtime import CModel
from tvm_schedules.backends.c.size import cortex_m7, told
from tvm_schedules.backends.c.writer import write
from tvm_schedules.errors import LinkError
from tvm_schedules.ir.plan import Plan
from tvm_schedules.targets.registry import TargetSpec

__all__ = ["SAMPLE", "in_memory", "write_artifact", "write_sample"]

Array = npt.NDArray[Any]
SAMPLE = "model_sample.h"
_MOST = 1 << 16
"""Elements of a sample that are still written as text."""


def write_artifact(folder: Path, model: Any, spec: TargetSpec, say: Callable[[str], None]) -> Plan:
    """Writes the C files and says how much memory they take.

    Args:
        folder: Where to.
        model: ``onnx.ModelProto`` with fixed shapes.
        spec: The target ``c``.
        say: Called with a line of text at every stage.

    Returns:
        The plan, whose details are ``cortex_m7``: sizes on a Cortex-M7, None where zig is not there.

    Raises:
        ModelError: The model cannot be read or has an operator without C code.
    """
    from tvm_schedules.common.version import __version__

    portable = compile_portable(model, spec, say)
    write(portable.plan, portable.program, folder, __version__)
    try:
        sizes = cortex_m7(folder)
    except LinkError as error:
        say(f"sizes on a Cortex-M7 are not known: {str(error).splitlines()[0]}")
        sizes = None
    plan = replace(portable.plan, details={"cortex_m7": sizes})
    for line in told(plan):
        say(line)
    return plan


def write_sample(folder: Path, run: Mapping[str, Array]) -> bool:
    """Writes one input and the output of the C code as ``model_sample.h``, for a self-test on the device.

    Args:
        folder: Holds the artifact.
        run: The inputs by name.

    Returns:
        Whether it was written: larger samples than :data:`_MOST` elements are not.
    """
    from tvm_schedules.artifact.load import load

    runner = load(folder)
    result = runner(**run)
    inputs, outputs = list(run.values()), list(result) if isinstance(result, tuple) else [result]
    if sum(array.size for array in (*inputs, *outputs)) > _MOST:
        return False
    lines = ["/* An input, and the output that model_run gives for it, bit for bit. */", "#include <stdint.h>"]
    for side, arrays in (("input", inputs), ("output", outputs)):
        for index, array in enumerate(arrays):
            name = f"model_sample_{side}" + (f"_{index}" if len(arrays) > 1 else "")
            flat = array.ravel()
            items = [number(v) for v in flat] if flat.dtype == np.float32 else list(map(str, flat.tolist()))
            lines.append(f"static const {CTYPES[array.dtype.name]} {name}[] = {{")
            lines += [",".join(items[i : i + 10]) + "," for i in range(0, len(items), 10)] + ["};"]
    (folder / SAMPLE).write_text("\n".join(lines) + "\n")
    return True


def in_memory(model: Any, spec: TargetSpec) -> CModel:
    """Writes, compiles and loads a network without leaving anything on the disk."""
    with tempfile.TemporaryDirectory() as place:
        made = compile_portable(model, spec)
        write(made.plan, made.program, Path(place), "")
        return CModel(Path(place), made.plan)
