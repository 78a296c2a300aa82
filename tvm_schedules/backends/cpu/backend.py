"""CPUs that LLVM makes code for: a shared library, its weights, and a probe of what the machine can do at best."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends import toolchain
from tvm_schedules.backends.base import Backend, Compiled, Say, Stored, quiet
from tvm_schedules.backends.cpu.files import LIBRARY, PROBE
from tvm_schedules.ir.graph import Graph
from tvm_schedules.targets import host_cpu
from tvm_schedules.targets.registry import TargetSpec, resolve

if TYPE_CHECKING:
    from tvm_schedules.backends.cpu.compile import CpuCompiled
    from tvm_schedules.backends.cpu.runtime import CpuModel
    from tvm_schedules.lowering.schedule_config import ScheduleConfig

__all__ = ["BACKEND", "CpuBackend"]


class _Library(Compiled):
    """A network as TVM's module, before it is linked."""

    def __init__(self, made: CpuCompiled, spec: TargetSpec) -> None:
        self.plan, self.arrays = made.plan, made.arrays
        self._made, self._spec = made, spec

    def write(self, folder: Path, say: Say) -> dict[str, Any]:
        """See :class:`~tvm_schedules.backends.base.Compiled`."""
        from tvm_schedules.backends.cpu.probe import build_probe

        say("link")
        toolchain.export_library(self._made.module, folder / LIBRARY, self._spec.triple, self._made.wakes)
        build_probe(self._spec, folder / PROBE)
        return {}


class CpuBackend(Backend):
    """Libraries for CPUs, as :class:`~tvm_schedules.backends.base.Backend` asks for them."""

    files = (LIBRARY, PROBE)
    not_run = (PROBE,)
    tunable = True
    threads = True
    single_steps = True

    def check(self, spec: TargetSpec | None, verify: bool) -> None:
        """There must be a linker."""
        toolchain.linker(None if spec is None else spec.triple)

    def compile(
        self, graph: Graph, spec: TargetSpec, say: Say = quiet, configs: Mapping[str, ScheduleConfig] | None = None
    ) -> Compiled:
        """See :class:`~tvm_schedules.backends.base.Backend`."""
        from tvm_schedules.backends.cpu.compile import compile_graph

        say(f"compile for {spec.name} ({spec.tvm.get('mcpu', 'generic')})")
        return _Library(compile_graph(graph, spec, say, configs, toolchain.own_threads()), spec)

    def in_memory(self, graph: Graph, spec: TargetSpec) -> CpuModel:
        """TVM's module, with TVM's threads: nothing is linked."""
        from tvm_schedules.backends.cpu.compile import compile_graph
        from tvm_schedules.backends.cpu.runtime import CpuModel
        from tvm_schedules.packing.registry import expand

        made = compile_graph(graph, spec)
        return CpuModel(made.plan, made.module, expand(made.plan.constants, made.plan.constant_bytes, made.arrays))

    def unavailable(self, spec: TargetSpec) -> str | None:
        """Code that another linker is needed for is another machine's."""
        return None if spec.triple is None else f"target {spec.name} is another CPU"

    def stand_in(self, spec: TargetSpec) -> TargetSpec:
        """This machine runs the same kernels in its own instructions."""
        return resolve("host")

    def check_machine(
        self,
        what: str | Path,
        target: Mapping[str, Any],
        machine: str,
        architecture: str | None,
        features: Collection[str] | None,
    ) -> None:
        """See :func:`tvm_schedules.targets.host_cpu.check_cpu`."""
        host_cpu.check_cpu(what, target, machine, architecture, features)

    def load(self, stored: Stored, threads: int | None) -> CpuModel:
        """See :class:`~tvm_schedules.backends.base.Backend`."""
        from tvm_schedules.backends.cpu.libraries import load_content
        from tvm_schedules.backends.cpu.runtime import CpuModel

        target, here = stored.metadata["target"], f"this machine ({host_cpu.name()})"
        self.check_machine(stored.name, target, here, host_cpu.architecture(), host_cpu.features())
        constants = stored.constants()
        return CpuModel(stored.plan, load_content(stored.content(LIBRARY)), constants, threads, stored.metadata)

    def loaded_files(self, metadata: Mapping[str, Any]) -> tuple[str, ...]:
        """The library."""
        return (LIBRARY,)


BACKEND = CpuBackend()
