"""One layer without its network, but with its layouts and weights there: lowered by a schedule configuration."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules import packing
from tvm_schedules.backends.cpu.lower import CpuLowering
from tvm_schedules.ir.graph import Fused, Node
from tvm_schedules.ir.layout import ALIGN
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering import rules
from tvm_schedules.lowering.base import Kernel
from tvm_schedules.lowering.constant_pool import Constants
from tvm_schedules.lowering.schedule_config import Knob, ScheduleConfig, ScheduleConfigs
from tvm_schedules.lowering.steps import Buffer, Step

__all__ = ["Alone", "candidates", "describe", "kernels_hash"]


Cache = dict[tuple[Any, ...], dict[str, np.ndarray]]


class Memory(Constants):
    """Constants whose content is at hand, expanded once for all candidates that want the same."""

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        self._cache = cache
        self._parts: list[tuple[Buffer, np.ndarray]] = []

    def make(self, packing: str, arrays: dict[str, np.ndarray], params: dict[str, Any]) -> dict[str, np.ndarray]:
        """See :class:`~tvm_schedules.lowering.constant_pool.Constants`."""
        if packing == "raw":
            return super().make(packing, arrays, params)
        shapes = tuple((name, array.shape, array.dtype.name) for name, array in arrays.items())
        key = (packing, json.dumps(params, sort_keys=True), shapes)
        if key not in self._cache:
            self._cache[key] = super().make(packing, arrays, params)
        return self._cache[key]

    def add(
        self, prefix: str, packing: str, arrays: dict[str, np.ndarray], params: dict[str, Any] | None = None
    ) -> dict[str, Buffer]:
        """See :class:`~tvm_schedules.lowering.constant_pool.Constants`."""
        buffers = super().add(prefix, packing, arrays, params)
        made = self.make(packing, arrays, params or {})
        self._parts += [(buffer, made[name]) for name, buffer in buffers.items()]
        return buffers

    def content(self) -> np.ndarray:
        """The memory, uint8, a multiple of :data:`~tvm_schedules.ir.layout.ALIGN` long."""
        memory = np.zeros(max(ALIGN, -(-self.nbytes // ALIGN) * ALIGN), np.uint8)
        for buffer, array in self._parts:
            assert buffer.place is not None
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            memory[buffer.place.offset : buffer.place.offset + data.size] = data
        return memory


class Alone(CpuLowering):
    """A lowering of a single node: its inputs and outputs are memory of its own, in the network's layouts.

    Args:
        base: The network's lowering, which need not have been run.
        node: The node whose layer is compiled alone.
        config: The kernel and its knobs; None leaves that to the cost model.
        cache: Expanded weights that candidates of the same node share.

    Attributes:
        taken: The configuration that it got, None if no kernel took the node as asked.
    """

    def __init__(self, base: CpuLowering, node: Node, config: ScheduleConfig | None, cache: Cache) -> None:
        self.__dict__.update(base.__dict__)
        self.configs = ScheduleConfigs({} if config is None else {node.name: config})
        self.steps: list[Step] = []
        self.constants: Memory = Memory(cache)
        self.layers = []
        self._plain, self._packed, self._virtual, self.derived = {}, {}, {}, {}
        self._outputs = {}
        self.largest_read = 4096
        kernels = [k for k in self._in_order(node) if config is None or config.kernel == k.NAME]
        took = isinstance(node, Fused) and any(self._takes(kernel, node) for kernel in kernels)
        self.taken = self.configs.chosen[node.name] if took else None
        self.knobs: dict[str, Knob] = self.configs.knobs.get(node.name, {}) if took else {}

    def plain(self, name: str) -> Buffer:
        """Plain memory of a tensor, wherever it comes from."""
        if name not in self._plain:
            self._plain[name] = Buffer(name, self._plain_bytes(name))
        return self._plain[name]

    def packed(self, key: Any) -> Buffer:
        """Planes of a tensor, wherever it comes from."""
        if key not in self._packed:
            self._packed[key] = Buffer(str(key), self.layouts[key].nbytes)
        return self._packed[key]


def candidates(base: CpuLowering, node: Node) -> list[Alone]:
    """What is worth measuring for a node.

    First the cost model's configuration, then every kernel that can take the node with each of its knobs varied alone.
    """
    cache: Cache = {}
    first = Alone(base, node, None, cache)
    if first.taken is None:
        return []
    found = {first.taken: first}
    for kernel in base.kernels:
        start = Alone(base, node, ScheduleConfig(kernel.NAME), cache)
        if start.taken is None:
            continue
        found.setdefault(start.taken, start)
        for name, knob in start.knobs.items():
            for other in knob.others:
                made = Alone(base, node, start.taken.with_knobs(**{name: other}), cache)
                if made.taken is not None:
                    found.setdefault(made.taken, made)
    return list(found.values())


def describe(alone: Alone) -> str:
    """What a candidate's code depends on, without what follows from the exact places of zeros."""
    return ";".join(f"{step.kernel}:{_text(step.spec)}" for step in alone.steps)


def _text(value: Any) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        kept = [f.name for f in fields(value) if f.name not in ("taps", "words", "steps", "codes")]
        parts = [f"{name}={_text(getattr(value, name))}" for name in kept]
        return f"{type(value).__name__}({', '.join(parts)})"
    return repr(value)


def pattern(node: Node) -> str:
    """Where a weight's zeros are, roughly: their share to 2 %, that of empty output channels to 10 %.

    Layers that do not differ in more than that share a measurement.
    """
    weight = getattr(node, "weight", None)
    if not isinstance(weight, TernaryTensor):
        return "dense"
    rows = np.abs(weight.codes).sum(0).reshape(weight.channels, -1).any(1)
    return f"zeros {round(weight.sparsity() / 0.02)} empty {round(float(1 - rows.mean()) / 0.1)}"


def kernels_hash(kernels: Sequence[Kernel]) -> str:
    """Changes with the code of kernels, of their rules and of packing: measurements of other code do not count."""
    digest = hashlib.sha256()
    own = {Path(str(sys.modules[kernel.emit.__module__].__file__)).parent for kernel in kernels}
    for folder in (*sorted(own), *(Path(package.__path__[0]) for package in (rules, packing))):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
