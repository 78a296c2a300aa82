"""Inference half: ONNX files with ternary weights -> fast, verified libraries for ARM and x86 through Apache TVM.

    >>> import tvm_schedules
    >>> artifact = tvm_schedules.build("model.onnx", output="out/", target="pi4")  # doctest: +SKIP
    >>> model = tvm_schedules.load("out/")                                         # doctest: +SKIP
    >>> y = model(x)                                                               # doctest: +SKIP

Importing the package is cheap: TVM and ONNX are loaded when a name that needs them is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm_schedules.artifact.build import Artifact, build
    from tvm_schedules.artifact.load import load
    from tvm_schedules.common.version import __version__
    from tvm_schedules.ir.ternary_tensor import TernaryTensor
    from tvm_schedules.runtime.model import Model

_HOMES = {
    "Artifact": "tvm_schedules.artifact.build",
    "Model": "tvm_schedules.runtime.model",
    "__version__": "tvm_schedules.common.version",
    "TernaryTensor": "tvm_schedules.ir.ternary_tensor",
    "build": "tvm_schedules.artifact.build",
    "load": "tvm_schedules.artifact.load",
}
__all__ = ["Artifact", "Model", "TernaryTensor", "__version__", "build", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
