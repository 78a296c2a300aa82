"""What is in an artifact for a graphics processor: the kernels' code, how it is written, loaded and checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tvm_schedules.artifact import store
from tvm_schedules.errors import DeviceError
from tvm_schedules.ir.plan import Plan
from tvm_schedules.targets.gpu import architectures
from tvm_schedules.targets.registry import TargetSpec

if TYPE_CHECKING:
    from tvm_schedules.backends.gpu.runtime import Device, GpuModel

__all__ = ["BINARY", "SOURCES", "check", "in_memory", "load", "needed", "write"]

Array = npt.NDArray[Any]
SOURCES = {"opencl": "kernels.cl", "cuda": "kernels.cu", "metal": "kernels.metal", "webgpu": "kernels.wgsl"}
BINARY = "kernels.fatbin"


def check(spec: TargetSpec) -> None:
    """Makes sure that what compiles for the target is there, before the work.

    Raises:
        LinkError: It is not; the message says what to install.
    """
    if spec.tvm["kind"] == "cuda":
        from tvm_schedules.backends.gpu.nvrtc import check as check_cuda

        check_cuda(architectures(spec.tvm))


def write(
    folder: Path, model: Any, spec: TargetSpec, say: Callable[[str], None]
) -> tuple[Plan, dict[str, Array], dict[str, Any]]:
    """Compiles a network and writes the code of its kernels.

    Returns:
        The plan, the stored arrays, and what the metadata's target says about the code.
    """
    from tvm_schedules.backends.gpu.compile import compile_gpu

    compiled = compile_gpu(model, spec, say)
    kind = str(spec.tvm["kind"])
    (folder / SOURCES[kind]).write_text(compiled.source)
    code: dict[str, Any] = {"source": SOURCES[kind]}
    if kind == "cuda":
        from tvm_schedules.backends.gpu.nvrtc import fatbin, images

        say("compiling with NVIDIA's compiler for " + ", ".join(f"sm_{n}" for n in architectures(spec.tvm)))
        binary = fatbin(compiled.source, architectures(spec.tvm))
        (folder / BINARY).write_bytes(binary)
        code |= {"binary": BINARY, "images": images(binary)}
    return compiled.plan, compiled.arrays, code


def needed(spec: TargetSpec) -> str | None:
    """Why this machine cannot run the target's artifacts; None if it can."""
    kind = spec.tvm["kind"]
    try:
        if kind == "opencl":
            from tvm_schedules.backends.gpu.devices.opencl import devices

            devices()
            return None
        if kind == "cuda":
            from tvm_schedules.backends.gpu.devices.cuda import capability

            found, built = capability(), architectures(spec.tvm)
            fits = any(found // 10 == number // 10 and found >= number for number in built) or found >= min(built)
            return None if fits else f"this machine's processor is sm_{found}, older than what was compiled"
    except DeviceError as error:
        return str(error)
    return f"{kind} is exported as source, there is no runner for it"


def _open(kind: str, source: Callable[[], str], binary: Callable[[], bytes]) -> Device:
    if kind == "opencl":
        from tvm_schedules.backends.gpu.devices.opencl import OpenClDevice

        return OpenClDevice(source())
    if kind == "cuda":
        from tvm_schedules.backends.gpu.devices.cuda import CudaDevice

        return CudaDevice(binary())
    raise DeviceError(f"{kind} is exported as source, there is no runner for it; see the documentation")


def load(
    folder: Path,
    metadata: dict[str, Any],
    plan: Plan,
    constants: Array,
    check_hashes: bool = True,
) -> GpuModel:
    """Opens the device and puts the network on it.

    Raises:
        DeviceError: No driver, no device, or one that the code does not fit.
        ArtifactError: The code is not that of the metadata.
        OSError: A file cannot be read.
    """
    from tvm_schedules.backends.gpu.runtime import GpuModel

    def content(name: str) -> bytes:
        return store.content(folder, metadata, name, check_hashes)

    device = _open(
        metadata["target"]["architecture"],
        lambda: content(metadata["code"]["source"]).decode(),
        lambda: content(BINARY),
    )
    return GpuModel(plan, constants, device, metadata)


def in_memory(model: Any, spec: TargetSpec) -> GpuModel:
    """Compiles a network and puts it on this machine's device, without an artifact."""
    from tvm_schedules.backends.gpu.compile import compile_gpu
    from tvm_schedules.backends.gpu.nvrtc import fatbin
    from tvm_schedules.backends.gpu.runtime import GpuModel
    from tvm_schedules.packing.registry import expand

    compiled = compile_gpu(model, spec)
    sm = architectures(spec.tvm)
    device = _open(str(spec.tvm["kind"]), lambda: compiled.source, lambda: fatbin(compiled.source, sm))
    return GpuModel(
        compiled.plan, expand(compiled.plan.constants, compiled.plan.constant_bytes, compiled.arrays), device
    )
