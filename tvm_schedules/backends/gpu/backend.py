"""Graphics processors: the kernels' source, for CUDA their machine code too, and the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.base import Backend, Compiled, Say, Stored, quiet
from tvm_schedules.errors import DeviceError
from tvm_schedules.ir.graph import Graph
from tvm_schedules.targets.gpu import architectures
from tvm_schedules.targets.registry import TargetSpec

if TYPE_CHECKING:
    from tvm_schedules.backends.gpu.compile import GpuCompiled
    from tvm_schedules.backends.gpu.runtime import Device, GpuModel
    from tvm_schedules.lowering.schedule_config import ScheduleConfig

__all__ = ["BACKEND", "BINARY", "SOURCES", "GpuBackend", "open_device"]

SOURCES = {"opencl": "kernels.cl", "cuda": "kernels.cu", "metal": "kernels.metal", "webgpu": "kernels.wgsl"}
BINARY = "kernels.fatbin"


class _Kernels(Compiled):
    """A network as the source of its kernels."""

    def __init__(self, made: GpuCompiled, spec: TargetSpec) -> None:
        self.plan, self.arrays = made.plan, made.arrays
        self._source, self._spec = made.source, spec

    def write(self, folder: Path, say: Say) -> dict[str, Any]:
        """Compiles the source where there is a compiler for it; tells the files' names, and processors."""
        kind = str(self._spec.tvm["kind"])
        (folder / SOURCES[kind]).write_text(self._source)
        code: dict[str, Any] = {"source": SOURCES[kind]}
        if kind == "cuda":
            from tvm_schedules.backends.gpu.nvrtc import fatbin, images

            wanted = architectures(self._spec.tvm)
            say("compiling with NVIDIA's compiler for " + ", ".join(f"sm_{number}" for number in wanted))
            binary = fatbin(self._source, wanted)
            (folder / BINARY).write_bytes(binary)
            code |= {"binary": BINARY, "images": images(binary)}
        return code


def open_device(kind: str, source: Callable[[], str], binary: Callable[[], bytes]) -> Device:
    """This machine's device with a program on it.

    Raises:
        DeviceError: No driver, no device, or one that the code does not fit.
    """
    if kind == "opencl":
        from tvm_schedules.backends.gpu.devices.opencl import OpenClDevice

        return OpenClDevice(source())
    if kind == "cuda":
        from tvm_schedules.backends.gpu.devices.cuda import CudaDevice

        return CudaDevice(binary())
    raise DeviceError(f"{kind} is exported as source, there is no runner for it; see the documentation")


class GpuBackend(Backend):
    """Kernels for graphics processors, as :class:`~tvm_schedules.backends.base.Backend` asks for them."""

    files = (*SOURCES.values(), BINARY)
    not_run = (SOURCES["cuda"],)
    single_steps = True
    process_kept = False  # one that has used a graphics processor holds memory of it

    def check(self, spec: TargetSpec | None, verify: bool) -> None:
        """CUDA needs NVIDIA's compiler."""
        if spec is not None and spec.tvm["kind"] == "cuda":
            from tvm_schedules.backends.gpu.nvrtc import check

            check(architectures(spec.tvm))

    def compile(
        self, graph: Graph, spec: TargetSpec, say: Say = quiet, configs: Mapping[str, ScheduleConfig] | None = None
    ) -> Compiled:
        """See :class:`~tvm_schedules.backends.base.Backend`."""
        from tvm_schedules.backends.gpu.compile import compile_graph

        say(f"compile for {spec.name} ({spec.tvm['kind']})")
        return _Kernels(compile_graph(graph, spec, say), spec)

    def in_memory(self, graph: Graph, spec: TargetSpec) -> GpuModel:
        """See :class:`~tvm_schedules.backends.base.Backend`."""
        from tvm_schedules.backends.gpu.compile import compile_graph
        from tvm_schedules.backends.gpu.nvrtc import fatbin
        from tvm_schedules.backends.gpu.runtime import GpuModel
        from tvm_schedules.packing.registry import expand

        made = compile_graph(graph, spec)
        kind, wanted = str(spec.tvm["kind"]), architectures(spec.tvm)
        device = open_device(kind, lambda: made.source, lambda: fatbin(made.source, wanted))
        return GpuModel(made.plan, expand(made.plan.constants, made.plan.constant_bytes, made.arrays), device)

    def unavailable(self, spec: TargetSpec) -> str | None:
        """See :class:`~tvm_schedules.backends.base.Backend`."""
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

    def load(self, stored: Stored, threads: int | None) -> GpuModel:
        """Opens the device and puts the network on it; there are no threads to share a call among."""
        from tvm_schedules.backends.gpu.runtime import GpuModel

        constants, metadata = stored.constants(), stored.metadata
        device = open_device(
            metadata["target"]["architecture"],
            lambda: stored.content(metadata["code"]["source"]).decode(),
            lambda: stored.content(BINARY),
        )
        return GpuModel(stored.plan, constants, device, metadata)

    def loaded_files(self, metadata: Mapping[str, Any]) -> tuple[str, ...]:
        """Machine code, or source where the driver compiles it."""
        return (metadata["code"].get("binary", metadata["code"]["source"]),)

    def made_for(self, target: Mapping[str, Any], code: Mapping[str, Any] | None) -> str:
        """The processors that there is machine code for, or the source."""
        return ", ".join((code or {}).get("images", [SOURCES[target["tvm"]["kind"]]]))


BACKEND = GpuBackend()
