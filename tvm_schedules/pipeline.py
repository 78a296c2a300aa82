"""The stages from a network to code on one page: an ONNX file, a graph, a fused graph, a back end's code.

    frontend.onnx_reader    reads and checks the file
    passes                  recognizes ternary weights and 8-bit tensors, fuses operators
    backends                lowering chooses kernels and layouts, then code is generated

What comes after it: :mod:`tvm_schedules.artifact` writes the code, the weights and what is known about them into a
directory, and loads it again; :mod:`tvm_schedules.verify` compares it with onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm_schedules.backends import registry
from tvm_schedules.backends.base import Compiled, Say, quiet
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.ir.graph import Graph
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.passes import prepare
from tvm_schedules.runtime.model import Model
from tvm_schedules.targets.registry import TargetSpec

__all__ = ["compile_graph", "read_graph", "run_in_memory"]


def read_graph(source: Any) -> Graph:
    """Reads a network, once for all that is made of it.

    Args:
        source: ``onnx.ModelProto``, path or bytes, with fixed shapes.

    Returns:
        The fused graph.

    Raises:
        ModelError: The model cannot be read.
    """
    return prepare(read(read_model(source)))


def compile_graph(
    graph: Graph, spec: TargetSpec, say: Say = quiet, configs: Mapping[str, ScheduleConfig] | None = None
) -> Compiled:
    """Compiles a network for an artifact, see :meth:`tvm_schedules.backends.base.Backend.compile`."""
    return registry.for_target(spec).compile(graph, spec, say, configs)


def run_in_memory(graph: Graph, spec: TargetSpec) -> Model:
    """Compiles a network for this machine, see :meth:`tvm_schedules.backends.base.Backend.in_memory`."""
    return registry.for_target(spec).in_memory(graph, spec)
