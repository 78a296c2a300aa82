"""ONNX models compiled by one back end, without an artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm_schedules import pipeline
from tvm_schedules.backends.c.compile import CProgram
from tvm_schedules.backends.c.compile import compile_graph as _c
from tvm_schedules.backends.cpu.compile import CpuCompiled
from tvm_schedules.backends.cpu.compile import compile_graph as _cpu
from tvm_schedules.backends.gpu.compile import GpuCompiled
from tvm_schedules.backends.gpu.compile import compile_graph as _gpu
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.targets.registry import TargetSpec

Choose = Callable[..., Mapping[str, ScheduleConfig]]


def compile_model(
    model: Any, target: TargetSpec, progress: Any = None, choose: Choose | None = None, own_threads: bool = False
) -> CpuCompiled:
    """A network for a CPU; ``choose`` gets its graph and the target."""
    graph = pipeline.read_graph(model)
    configs = None if choose is None else choose(graph, target)
    return _cpu(graph, target, progress or (lambda line: None), configs, own_threads)


def compile_gpu(model: Any, target: TargetSpec) -> GpuCompiled:
    """The source of a network's kernels."""
    return _gpu(pipeline.read_graph(model), target)


def compile_c(model: Any, target: TargetSpec) -> CProgram:
    """A network as C."""
    return _c(pipeline.read_graph(model), target)
