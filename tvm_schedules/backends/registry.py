"""Which back end a kind of target has; a back end is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from tvm_schedules.backends.base import Backend
from tvm_schedules.errors import ArtifactError, TargetError
from tvm_schedules.targets import gpu
from tvm_schedules.targets.registry import TargetSpec

__all__ = ["MODULES", "files", "for_artifact", "for_kind", "for_target", "has_file", "needs_file", "not_run"]

MODULES = {
    "tvm_schedules.backends.cpu.backend": ("llvm",),
    "tvm_schedules.backends.gpu.backend": gpu.KINDS,
    "tvm_schedules.backends.c.backend": ("c",),
}
"""Modules with a ``BACKEND``, and the kinds of TVM targets that it makes code for."""


def for_kind(kind: str) -> Backend:
    """The back end of a kind of target, which is ``tvm["kind"]`` of its description.

    Raises:
        TargetError: There is none.
    """
    name = next((name for name, kinds in MODULES.items() if kind in kinds), None)
    if name is None:
        raise TargetError(f"no back end makes code for targets of the kind {kind!r}")
    found: Backend = import_module(name).BACKEND
    return found


def for_artifact(metadata: Mapping[str, Any]) -> Backend:
    """The back end that made an artifact's code.

    Args:
        metadata: Content of its ``metadata.json``.

    Raises:
        ArtifactError: This version has it not.
    """
    try:
        return for_kind(metadata["target"]["tvm"]["kind"])
    except TargetError as error:
        raise ArtifactError(f"the artifact cannot be used by this version: {error}; export it again") from None


def for_target(spec: TargetSpec | None) -> Backend:
    """The back end of a target; None is this machine."""
    return for_kind("llvm" if spec is None else str(spec.tvm["kind"]))


def files() -> tuple[str, ...]:
    """Names of the files of all back ends."""
    return tuple(name for module in MODULES for name in import_module(module).BACKEND.files)


def has_file(name: str) -> bool:
    """Whether a back end may write a file of that name."""
    return any(import_module(module).BACKEND.has_file(name) for module in MODULES)


def needs_file(name: str) -> bool:
    """Whether a device has to have that file of a back end."""
    return any(import_module(module).BACKEND.needs_file(name) for module in MODULES)


def not_run() -> tuple[str, ...]:
    """Those of them that a device needs not have to run a network."""
    return tuple(name for module in MODULES for name in import_module(module).BACKEND.not_run)
