"""A fourth back end, which knows linear layers only: its code is a list of layers in JSON, and numpy runs it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.backends.base import Backend, Compiled, Say, Stored, quiet
from tvm_schedules.errors import LinkError, UnsupportedOperatorError
from tvm_schedules.ir.graph import Graph, Linear
from tvm_schedules.ir.plan import LayerInfo, Plan, StepInfo, TensorInfo
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.constant_pool import Constants
from tvm_schedules.packing.registry import expand
from tvm_schedules.runtime.model import SteppedModel
from tvm_schedules.targets.registry import TargetSpec

SPEC = TargetSpec("toy", {"kind": "toy"}, 16, frozenset(), None)
FILE = "layers.json"


class ToyModel(SteppedModel):
    what = "layers in numpy"

    def __init__(self, plan: Plan, layers: list[dict[str, Any]], constants: np.ndarray, metadata: Any = None) -> None:
        super().__init__(plan, metadata)
        self.layers, self.constants, self.value = layers, constants, np.zeros(0, np.float32)

    def _run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.value = np.asarray(arrays[0])
        self.run_steps(0, len(self.layers))
        return [self.value.copy()]

    def run_steps(self, begin: int, end: int) -> None:
        self._check_steps(begin, end)
        for layer in self.layers[begin:end]:
            weight, bias = (
                self.constants[offset : offset + nbytes].view(np.float32) for offset, nbytes in layer["memory"]
            )
            sums = self.value @ weight.reshape(layer["shape"]).T + bias
            self.value = np.clip(sums, layer["low"], layer["high"]).astype(np.float32)


class ToyCompiled(Compiled):
    def __init__(self, plan: Plan, arrays: Mapping[str, np.ndarray], layers: list[dict[str, Any]]) -> None:
        self.plan, self.arrays, self.layers = plan, arrays, layers

    def write(self, folder: Path, say: Say) -> dict[str, Any]:
        say("write layers")
        (folder / FILE).write_text(json.dumps(self.layers))
        return {"source": FILE}


class ToyBackend(Backend):
    files = (FILE,)
    single_steps = True
    lacking: str | None = None

    def check(self, spec: TargetSpec | None, verify: bool) -> None:
        if self.lacking:
            raise LinkError(self.lacking)

    def compile(self, graph: Graph, spec: TargetSpec, say: Say = quiet, configs: Any = None) -> ToyCompiled:
        constants, layers, steps, about = Constants(), [], [], []
        for node in graph.nodes:
            if not isinstance(node, Linear) or not isinstance(node.weight, TernaryTensor):
                raise UnsupportedOperatorError(f"the toy has no {node.op}")
            weight = node.weight
            values = weight.dequantize() * node.scale.reshape(-1, 1)
            made = constants.add(node.name, "raw", {"weight": values.astype(np.float32), "bias": node.bias})
            memory = [(made[name].place.offset, made[name].nbytes) for name in ("weight", "bias")]
            bounds = {"low": max(node.clip.low, -3e38), "high": min(node.clip.high, 3e38)}
            layers.append({"shape": list(weight.shape), "memory": memory, **bounds})
            steps.append(StepInfo(node.name, "toy_linear", {"op": node.op}))
            numbers = (weight.terms, weight.sparsity(), weight.entropy(), 32.0, values.nbytes, (1.0,))
            about.append(LayerInfo(node.name, "toy_linear", "the only one", tuple(weight.shape), *numbers))
        ends = [
            tuple(TensorInfo(name, graph.values[name].shape, graph.values[name].dtype) for name in names)
            for names in (graph.inputs, graph.outputs)
        ]
        plan = Plan(*ends, tuple(steps), tuple(about), constants.nbytes, tuple(constants.entries))
        return ToyCompiled(plan, constants.arrays, layers)

    def in_memory(self, graph: Graph, spec: TargetSpec) -> ToyModel:
        made = self.compile(graph, spec)
        plan = made.plan
        return ToyModel(plan, made.layers, expand(plan.constants, plan.constant_bytes, made.arrays))

    def unavailable(self, spec: TargetSpec) -> str | None:
        return None

    def load(self, stored: Stored, threads: int | None) -> ToyModel:
        return ToyModel(stored.plan, json.loads(stored.content(FILE)), stored.constants(), stored.metadata)

    def loaded_files(self, metadata: Mapping[str, Any]) -> tuple[str, ...]:
        return (FILE,)

    def made_for(self, target: Mapping[str, Any], code: Mapping[str, Any] | None) -> str:
        return "whoever has numpy"


BACKEND = ToyBackend()


def wrong(graph: Graph, spec: TargetSpec, say: Say = quiet, configs: Any = None) -> ToyCompiled:
    """As :meth:`ToyBackend.compile`, with bounds that no output should have."""
    made = ToyBackend().compile(graph, spec, say)
    made.layers[-1]["high"] = -1.0
    return made
