"""Names of graphics processors as targets."""

from __future__ import annotations

import re
from typing import Any

from tvm_schedules.errors import TargetError

__all__ = ["KINDS", "architectures", "known", "resolve_gpu"]

KINDS = ("opencl", "cuda", "metal", "webgpu")
"""Kinds of TVM targets that this package generates code for."""

_CUDA_DEFAULT = (75, 80, 86, 87, 89, 90)
_NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "opencl": ({"kind": "opencl"}, "any OpenCL 1.2 device"),
    "mali": ({"kind": "opencl", "device": "mali"}, "ARM Mali, by OpenCL"),
    "adreno": ({"kind": "opencl", "device": "adreno"}, "Qualcomm Adreno, by OpenCL"),
    "cuda": ({"kind": "cuda", "arch": "sm_75", "sm": list(_CUDA_DEFAULT)}, "NVIDIA, Turing to Hopper, and PTX"),
    "jetson-orin": ({"kind": "cuda", "arch": "sm_87", "sm": [87]}, "NVIDIA Jetson Orin"),
    "jetson-xavier": ({"kind": "cuda", "arch": "sm_72", "sm": [72]}, "NVIDIA Jetson Xavier"),
    "metal": ({"kind": "metal"}, "Apple's processors: source only, not run here"),
    "webgpu": ({"kind": "webgpu"}, "browsers: source only, networks without 8-bit tensors"),
}
_UNAVAILABLE = {"vulkan": "TVM 0.27 from PyPI has no Vulkan code generator; use opencl, or build TVM with Vulkan"}


def known() -> dict[str, str]:
    """Names with a line of description each; ``sm_XX`` is any one NVIDIA architecture from sm_61 on."""
    return {name: text for name, (_, text) in _NAMES.items()} | {"sm_XX": "one NVIDIA architecture, such as sm_86"}


def resolve_gpu(name: str) -> dict[str, Any] | None:
    """TVM's target of a name, with the CUDA architectures under ``sm``; None if it is no graphics processor.

    Raises:
        TargetError: The target exists elsewhere but not in this TVM, or the architecture is too old.
    """
    if name in _UNAVAILABLE:
        raise TargetError(f"target {name!r} is not available in this TVM: {_UNAVAILABLE[name]}")
    if name in _NAMES:
        return dict(_NAMES[name][0])
    if (found := re.fullmatch(r"sm_(\d{2,3})", name)) is not None:
        number = int(found[1])
        if number < 61:
            raise TargetError(f"target {name!r}: the kernels need 8-bit dot products (__dp4a), from sm_61 on")
        return {"kind": "cuda", "arch": name, "sm": [number]}
    return None


def architectures(target: dict[str, Any]) -> list[int]:
    """The CUDA architectures that a target is compiled for."""
    return [int(number) for number in target.get("sm", [])]
