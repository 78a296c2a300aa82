"""Lets tests that compile for this machine compile for an x86 CPU with AVX-512 and run on an emulated one.

``TERN_X86=cascadelake python -m pytest -p tests.x86.plugin tests/tvm_schedules/backends/cpu/kernels`` runs the kernels'
property tests that way, those included that are skipped where a CPU lacks what they need. A call takes a second, so
that they try a fifth of the usual examples; ``TERN_X86_PART`` is another number than 5.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np

from tests import properties
from tests.tvm_schedules import nets
from tests.x86 import machine
from tvm_schedules.targets import registry

CORE = os.environ.get("TERN_X86", "cascadelake")
PART = int(os.environ.get("TERN_X86_PART", "5"))


def _host() -> registry.TargetSpec:
    """In place of this machine."""
    json = f'{{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "{CORE}", "mattr": ["-prefer-256-bit"]}}'
    return replace(registry.resolve(json), name="host")


class Emulated:
    """A compiled network's function that runs on the emulated machine; takes what TVM's function takes."""

    def __init__(self, compiled: Any) -> None:
        self.library = machine.library(compiled, own_threads=False)
        self.outputs = range(len(compiled.plan.inputs), len(compiled.plan.inputs) + len(compiled.plan.outputs))

    def __call__(self, *arguments: Any) -> None:
        *tensors, begin, end = arguments
        written = [*self.outputs, len(tensors) - 2]  # and the arena, which another call may go on with
        call = machine.Call(self.library, [tensor.numpy() for tensor in tensors], written, begin, end)
        (found,) = machine.run([call], machine.CPUS[CORE])
        for place, array in zip(written, found, strict=True):
            tensors[place].copyfrom(np.array(array))


_examples = properties.examples


def _fewer(usual: int, **options: Any) -> Any:
    return _examples(max(1, usual // PART), **options)


def pytest_configure() -> None:
    """Before any test file is read."""
    registry._host = _host
    properties.examples = properties.compilations = _fewer
    setattr(nets.Runner, "function_of", staticmethod(Emulated))  # noqa: B010 - of another type
