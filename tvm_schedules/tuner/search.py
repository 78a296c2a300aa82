"""Finds every layer's best schedule configuration: measured, or remembered from an earlier export."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.backends.cpu.lower import CpuLowering
from tvm_schedules.backends.cpu.threads import default_threads
from tvm_schedules.backends.toolchain import own_threads
from tvm_schedules.common.files import check_writable
from tvm_schedules.common.reading import reading
from tvm_schedules.errors import TunerError
from tvm_schedules.ir.graph import Fused, Graph, Node
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.runtime.threads import checked
from tvm_schedules.targets import host_cpu as cpu
from tvm_schedules.targets.registry import TargetSpec
from tvm_schedules.tuner.alone import Alone, candidates, describe, kernels_hash, pattern
from tvm_schedules.tuner.database import Database, default_database
from tvm_schedules.tuner.measure import Device, LocalDevice, RemoteDevice, library

__all__ = ["Tuned", "Tuning"]

TURNS = 15
"""Turns of all candidates of a layer; medians over them are compared."""

GAIN = 0.03
"""Share of the time that another configuration must save to replace the cost model's: smaller gains are noise."""


@dataclass(frozen=True)
class Tuned:
    """What was found for a layer.

    Attributes:
        name: The name of the node.
        chosen: The configuration that was fastest.
        model: The configuration of the cost model.
        tuned_us: Microseconds of the best configuration, alone.
        model_us: Microseconds of the cost model's, in the same measurement.
        reused: Whether it was in the database.
    """

    name: str
    chosen: ScheduleConfig
    model: ScheduleConfig
    tuned_us: float
    model_us: float
    reused: bool

    def to_json(self) -> dict[str, Any]:
        """The fields in JSON types, for a report."""
        return {
            "name": self.name,
            "chosen": self.chosen.to_json(),
            "model": self.model.to_json(),
            "tuned_us": round(self.tuned_us, 3),
            "model_us": round(self.model_us, 3),
            "reused": self.reused,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tuned:
        """The inverse of :meth:`to_json`."""
        configs = {key: ScheduleConfig.from_json(data[key]) for key in ("chosen", "model")}
        return cls(**{**data, **configs})


@dataclass
class Tuning:
    """How to tune; after an export, ``layers`` says what was found.

    Args:
        database: The file of measurements; None is the one in the user's cache directory.
        board: An open session of :mod:`tvm_schedules.remote.client`; None measures on this machine.
        threads: Threads that the network will run with; None takes what the device has.
        turns: Turns of all candidates.
        device: Stands in for both places in tests.
    """

    database: str | Path | None = None
    board: Any = None
    threads: int | None = None
    turns: int = TURNS
    device: Device | None = None
    layers: list[Tuned] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.threads is not None:
            self.threads = checked(self.threads)
        if self.turns < 1:
            raise ValueError(f"turns must be at least 1, got {self.turns}")

    def choose(self, graph: Graph, target: TargetSpec, progress: Callable[[str], None]) -> dict[str, ScheduleConfig]:
        """The best configuration of every layer.

        What has been measured stays in the database when this is interrupted.

        Args:
            graph: The network after the passes.
            target: The machine to compile for.
            progress: Called with a line for each layer that is measured.

        Raises:
            OutputError: The database cannot be written.
            TunerError: The database is damaged, or a layer is not in it and there is no device to measure it on.
            CpuFeatureError: The board's CPU is not one for the target.
        """
        database = Database(self.database or default_database())
        check_writable(database.path)
        base = CpuLowering(graph, target)
        threads = self.usual_threads()
        nodes = [node for node in graph.nodes if isinstance(node, Fused)]
        self.layers, measured = [], 0
        for index, node in enumerate(nodes):
            found = candidates(base, node)
            if len(found) < 2:
                continue
            key = _key(node, found, target, threads, kernels_hash(base.kernels))
            entry, reused = database.get(key), True
            if entry is None:
                progress(f"tune {index + 1} of {len(nodes)}: {node.name}, {len(found)} variants")
                entry, reused = self._measure(base, node, found, target, threads), False
                database.put(key, entry)
                measured += 1
            self.layers.append(_tuned(node.name, entry, reused, database))
        progress(f"tuned {len(self.layers)} layers, {measured} of them measured now; {database.path}")
        return {layer.name: layer.chosen for layer in self.layers}

    def usual_threads(self) -> int:
        """Threads to measure with."""
        if self.threads is not None:
            return self.threads
        return int(self.board.info.get("cores") or 1) if self.board is not None else default_threads()

    def device_name(self) -> str:
        """What the database says about where it was measured."""
        return str(self.board.name if self.board is not None else getattr(self.device, "name", cpu.name()))

    def device_for(self, target: TargetSpec) -> Device:
        """What runs and times the candidates.

        Raises:
            TunerError: There is nothing to measure libraries for the target on.
            CpuFeatureError: The board's CPU is not one for the target.
        """
        if self.device is not None:
            return self.device
        if self.board is not None:
            self.board.check_target("the network", {"target": target.to_dict()})
            return RemoteDevice(self.board)
        if target.triple is not None:
            raise TunerError(
                f"tuning measures on the device, and this machine ({cpu.name()}) is not one for target "
                f"{target.name!r}: give a board (tern-export --tune-board HOST:PORT), or bring a database from there"
            )
        return LocalDevice()

    def _measure(
        self, base: CpuLowering, node: Node, found: list[Alone], target: TargetSpec, threads: int
    ) -> dict[str, Any]:
        """Time all candidates, then what combines the knobs that helped."""
        device = self.device_for(target)
        times = device.time(library(found, target, own_threads()), target, threads, self.turns)
        taken = [alone.taken for alone in found]
        model, us = taken[0], dict(zip(taken, 1e6 * np.median(times, axis=0), strict=True))
        assert model is not None
        best = min(us, key=us.__getitem__)
        assert best is not None
        together = Alone(base, node, _combined(best, us), {})
        if together.taken is not None and together.taken not in us:
            last = [found[0], found[taken.index(best)], together]
            times = device.time(library(last, target, own_threads()), target, threads, self.turns)
            us.update(zip([alone.taken for alone in last], 1e6 * np.median(times, axis=0), strict=True))
            best = min((best, together.taken), key=us.__getitem__)
        if us[best] > us[model] * (1 - GAIN):
            best = model
        return {
            "layer": node.name,
            "op": node.op,
            "target": target.name,
            "device": self.device_name(),
            "threads": threads,
            "chosen": best.to_json(),
            "model": model.to_json(),
            "us": {str(config): round(float(value), 3) for config, value in us.items()},
        }


def _combined(best: ScheduleConfig, us: dict[Any, float]) -> ScheduleConfig:
    """The best kernel with each knob at the value that was fastest when it was varied alone."""
    same = [dict(config.knobs) for config in us if config.kernel == best.kernel]
    start = {name: Counter(knobs[name] for knobs in same).most_common(1)[0][0] for name, _ in best.knobs}
    combined = {}
    for name in start:
        values = dict.fromkeys([start[name], *(knobs[name] for knobs in same)])
        alone = [ScheduleConfig.of(best.kernel, {**start, name: value}) for value in values]
        fastest = min((config for config in alone if config in us), key=us.__getitem__)
        combined[name] = dict(fastest.knobs)[name]
    return ScheduleConfig.of(best.kernel, combined)


def _key(node: Node, found: list[Alone], target: TargetSpec, threads: int, kernels: str) -> str:
    """Everything that a measurement depends on: the candidates' code, the weight's zeros, target, threads, kernels."""
    parts = [
        pattern(node),
        *sorted(describe(alone) for alone in found),
        json.dumps(target.tvm, sort_keys=True),
        str(target.vector_bytes),
        str(threads),
        kernels,
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _tuned(name: str, entry: dict[str, Any], reused: bool, database: Database) -> Tuned:
    what = f"the entry for {name!r} in the tuning database {database.path}"
    with reading(what, TunerError, "; delete the file to measure again, or name another one"):
        chosen, model = ScheduleConfig.from_json(entry["chosen"]), ScheduleConfig.from_json(entry["model"])
        us = [float(entry["us"][str(config)]) for config in (chosen, model)]
        if not all(0 <= value < math.inf for value in us):
            raise ValueError(f"times must be positive, got {us}")
        return Tuned(name, chosen, model, us[0], us[1], reused)
