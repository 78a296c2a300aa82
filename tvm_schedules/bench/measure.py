"""Interleaved measurement: every engine runs in every round, so that a slow moment of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.artifact import store
from tvm_schedules.backends import registry
from tvm_schedules.backends.cpu.files import PROBE
from tvm_schedules.bench import peers
from tvm_schedules.bench.machines import Machine, Running, ThisMachine
from tvm_schedules.common.files import temporary_folder, user_path
from tvm_schedules.common.near import meant
from tvm_schedules.engines.process import Engine
from tvm_schedules.errors import BenchError
from tvm_schedules.remote.client import ConnectionLostError
from tvm_schedules.runtime.threads import checked


@dataclass(frozen=True)
class Request:
    """What to measure beside an artifact, and for how long.

    Attributes:
        against: The alternatives: ``onnxruntime``, or an engine with its own file, such as ``litert=net.tflite``.
        threads: Numbers of threads; every engine is pinned to that many CPUs.
        rounds: Rounds of the interleaving.
        seconds: Time for one engine in one round.
        pythons: Interpreters of environments that have engines, by the engine's name.
    """

    against: Sequence[str] = ("onnxruntime",)
    threads: Sequence[int] = (1,)
    rounds: int = 9
    seconds: float = 0.25
    pythons: Mapping[str, str] = field(default_factory=dict)

    def check(self, artifact: str | Path) -> dict[str, Any]:
        """Refuse what no machine could measure.

        Returns:
            The artifact's metadata.

        Raises:
            BenchError: An unknown alternative, a wrong number, or an artifact that no engine here runs.
            ArtifactError: The artifact is damaged.
        """
        for name in self.against:
            if "=" in name:
                peers.by_file(name, self.pythons)
            elif name not in peers.KNOWN:
                hint = meant(name, peers.KNOWN) or f"; {peers.OTHERS}"
                raise BenchError(f"against must be one of {', '.join(peers.KNOWN)}, got {name!r}{hint}")
        if not self.threads:
            raise BenchError("threads must be one number or several, got none")
        try:
            for count in self.threads:
                checked(count)
        except (TypeError, ValueError) as error:
            raise BenchError(str(error)) from error
        if self.rounds < 1:
            raise BenchError(f"rounds must be at least 1, got {self.rounds}")
        metadata = store.read_metadata(user_path(artifact, "artifact"))
        reason = registry.for_artifact(metadata).not_measured()
        if reason is not None:
            raise BenchError(f"{artifact} {reason}")
        return metadata


def _statistics(rounds: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Summary of an engine's latencies; the ratio is the median over rounds of this engine's median by ours."""
    values = np.concatenate([np.asarray(entry) for entry in rounds]) / 1e3
    q25, median, q75 = np.percentile(values, [25, 50, 75])
    ratios = [float(np.median(a) / np.median(b)) for a, b in zip(rounds, base, strict=True)]
    return {
        "median_ms": float(median),
        "min_ms": float(values.min()),
        "q25_ms": float(q25),
        "q75_ms": float(q75),
        "runs": int(values.size),
        "ratio": float(np.median(ratios)),
        "ratio_of_min": float(min(min(r) for r in rounds) / min(min(r) for r in base)),
    }


def _energy(watts: Sequence[float], rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean power of the machine while an engine ran, and millijoules of one run at its median latency."""
    if not watts:
        return {"watts": None, "millijoules": None}
    mean = float(np.mean(watts))
    return {
        "watts": mean,
        "millijoules": mean * float(np.median(np.concatenate([np.asarray(r) for r in rounds]))) / 1e3,
    }


def _steps(metadata: dict[str, Any], times: Sequence[float], ceiling: dict[str, float] | None) -> list[dict[str, Any]]:
    """Per-step table: time, share, work done a second, and how near that is to the CPU's ceiling."""
    total = sum(times) or 1.0
    rows = []
    for step, us in zip(metadata["steps"], times, strict=True):
        rate = 1e-3 / us if us > 0 else 0.0  # 1e9 operations a second, for one operation
        gadds = step.get("nonzero_macs", 0) * rate
        rows.append(
            {
                "name": step["name"],
                "op": step.get("op", ""),
                "kernel": step["kernel"],
                "operand": step["operand"],
                "us": us,
                "share": us / total,
                "dense_gmacs": step.get("macs", 0) * rate,
                "gadds": gadds,
                "ceiling_share": gadds / ceiling[_kind(step)] if gadds and ceiling else None,
            }
        )
    return rows


def _kind(step: dict[str, Any]) -> str:
    return "u8" if step["operand"] == "uint8" else "f32"


@dataclass(frozen=True)
class _Measurement:
    """What holds for all numbers of threads.

    Attributes:
        machine: Runs the engines.
        artifact: The artifact.
        metadata: What it says about itself.
        request: What to measure.
        say: Called with a line before each stage.
        keep: Called after every round.
    """

    machine: Machine
    artifact: Path
    metadata: dict[str, Any]
    request: Request
    say: Callable[[str], None]
    keep: Callable[[], None]

    def run(self, entry: dict[str, Any], engines: Sequence[Engine]) -> None:
        """Measures all engines with one number of threads; fills ``entry`` as results come."""
        workers: list[Running] = []
        try:
            self._start(entry, engines, workers)
            self._rounds(entry, workers)
            self._layers(entry, workers)
        finally:
            for worker in workers:
                worker.close()

    def _start(self, entry: dict[str, Any], engines: Sequence[Engine], workers: list[Running]) -> None:
        threads = entry["threads"]
        for engine in engines:
            self.say(f"{threads} threads: load {engine.name}")
            try:
                workers.append(self.machine.start(engine, self.artifact, threads, entry["cpus"]))
            except ConnectionLostError:
                raise
            except BenchError as error:
                if engine.kind == "tern":
                    raise
                entry["skipped"].append({"name": engine.name, "reason": str(error)})

    def _rounds(self, entry: dict[str, Any], workers: Sequence[Running]) -> None:
        times: dict[str, list[list[float]]] = {worker.engine.name: [] for worker in workers}
        watts: dict[str, list[float]] = {worker.engine.name: [] for worker in workers}
        entry["energy"] = workers[0].ready.get("energy")
        for index in range(self.request.rounds):
            self.say(f"{entry['threads']} threads: round {index + 1} of {self.request.rounds}")
            taken: dict[str, list[float]] = {}
            for offset in range(len(workers)):
                worker = workers[(index + offset) % len(workers)]
                time.sleep(0.01)  # the last engine's threads spin a little before they sleep
                answer = worker.ask("time", self.request.seconds)
                taken[worker.engine.name] = answer["us"]
                if answer.get("watts") is not None:
                    watts[worker.engine.name].append(answer["watts"])
            for name, values in taken.items():
                times[name].append(values)
            entry["engines"] = [
                {
                    "name": worker.engine.name,
                    **_statistics(times[worker.engine.name], times["tern"]),
                    **_energy(watts[worker.engine.name], times[worker.engine.name]),
                    "peak_rss_bytes": None,
                    "own_rss_bytes": None,
                    "file_bytes": worker.engine.bytes,
                    "load_seconds": worker.ready["load_seconds"],
                    "relative_error": worker.ready["error"],
                    "device": worker.ready.get("device"),
                }
                for worker in workers
            ]
            entry["rounds"] = index + 1
            self.keep()

    def _layers(self, entry: dict[str, Any], workers: Sequence[Running]) -> None:
        self.say(f"{entry['threads']} threads: layers and ceiling")
        for worker, row in zip(workers, entry["engines"], strict=True):
            memory = worker.ask("memory")
            row |= {"peak_rss_bytes": memory["peak_bytes"], "own_rss_bytes": memory["own_bytes"]}
        seconds = self.request.seconds
        ceiling = workers[0].ask("ceiling", seconds) if PROBE in self.metadata["files"] else None
        entry["steps"] = _steps(self.metadata, workers[0].ask("steps", 4 * seconds)["us"], ceiling)
        entry["ceiling_gadds"] = ceiling
        self.keep()


def _possible(threads: Sequence[int], cpus: Sequence[int]) -> list[int]:
    """The numbers of threads for which there are CPUs, as far as it is known which there are."""
    found = [count for count in threads if not cpus or count <= len(cpus)]
    if not found:
        raise BenchError(f"threads must be between 1 and the {len(cpus)} CPUs that may be used, got {min(threads)}")
    return found


def bench(
    artifact: str | Path,
    request: Request = Request(),
    machine: Machine | None = None,
    progress: Callable[[str], None] | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Measure an artifact and its alternatives in one run.

    Args:
        artifact: Directory made by :func:`tvm_schedules.build` for this machine or its graphics processor.
        request: What to measure beside it, and for how long.
        machine: Which to measure on; None means this one.
        progress: Called with a line of text before each stage.
        keep: Called with what there is so far after every round, so that a failure later on loses none of it.

    Returns:
        Plain data for JSON: ``machine``, ``before``, ``after``, ``artifact``, ``results`` (one entry per number of
        threads with ``engines``, ``steps``, ``ceiling_gadds``), ``skipped``.

    Raises:
        BenchError: An unknown alternative, no number of threads that the machine has, or our own engine failed.
        ArtifactError: The artifact is damaged.
    """
    folder, metadata = user_path(artifact), request.check(artifact)
    machine = machine or ThisMachine()
    cpus = machine.cpus()
    threads = _possible(request.threads, cpus)
    say = progress or (lambda line: None)
    engines, description = [peers.ours(folder, metadata)], machine.describe()
    result: dict[str, Any] = {
        "artifact": {
            "path": str(folder),
            "target": metadata["target"]["name"],
            "packages": metadata["packages"],
            "quantization": metadata["quantization"],
            "files": {name: entry["bytes"] for name, entry in metadata["files"].items()},
        },
        "machine": description,
        "before": machine.condition(),
        "after": None,
        "rounds": request.rounds,
        "seconds": request.seconds,
        "results": [],
        "skipped": [
            {"name": f"{count} threads", "reason": f"CPUs that may be used: {len(cpus)}"}
            for count in request.threads
            if count not in threads
        ],
    }

    def save() -> None:
        result["after"] = machine.condition()
        if keep is not None:
            keep(result)

    with temporary_folder("bench") as temporary:
        if "onnxruntime" in request.against:
            reason = machine.lacks("onnxruntime")
            if reason is None:
                say("prepare onnxruntime's models")
                found, refused = peers.onnxruntime_engines(folder, Path(temporary), peers.overflows(description))
                engines += found
            else:
                refused = [("onnxruntime", reason)]
            result["skipped"] += [{"name": name, "reason": reason} for name, reason in refused]
        for name in request.against:
            if "=" in name:
                engine = peers.by_file(name, request.pythons)
                reason = machine.lacks(engine.kind)
                if reason is None:
                    engines.append(engine)
                else:
                    result["skipped"].append({"name": engine.name, "reason": reason})
        measurement = _Measurement(machine, folder, metadata, request, say, save)
        for count in threads:
            entry: dict[str, Any] = {"threads": count, "cpus": cpus[:count], "rounds": 0, "engines": [], "steps": []}
            entry |= {"skipped": [], "ceiling_gadds": None}
            result["results"].append(entry)
            measurement.run(entry, engines)
    return result
