"""Interleaved measurement: every engine runs in every round, so that a slow moment of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.artifact import store
from tvm_schedules.backends.cpu.threads import checked
from tvm_schedules.bench import peers
from tvm_schedules.bench.machines import Machine, Running, ThisMachine
from tvm_schedules.common.files import temporary_folder, user_path
from tvm_schedules.engines.process import Engine
from tvm_schedules.errors import BenchError
from tvm_schedules.remote.client import ConnectionLostError


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


def _run_threads(
    entry: dict[str, Any],
    machine: Machine,
    engines: Sequence[Engine],
    artifact: Path,
    metadata: dict[str, Any],
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
    keep: Callable[[], None],
) -> None:
    """All engines with one number of threads; fills ``entry`` as results come."""
    threads, workers = entry["threads"], list[Running]()
    try:
        for engine in engines:
            say(f"{threads} threads: load {engine.name}")
            try:
                workers.append(machine.start(engine, artifact, threads, entry["cpus"]))
            except ConnectionLostError:
                raise
            except BenchError as error:
                if engine.kind == "tern":
                    raise
                entry["skipped"].append({"name": engine.name, "reason": str(error)})
        times: dict[str, list[list[float]]] = {worker.engine.name: [] for worker in workers}
        for index in range(rounds):
            say(f"{threads} threads: round {index + 1} of {rounds}")
            taken: dict[str, list[float]] = {}
            for offset in range(len(workers)):
                worker = workers[(index + offset) % len(workers)]
                time.sleep(0.01)  # the last engine's threads spin a little before they sleep
                taken[worker.engine.name] = worker.ask("time", seconds)["us"]
            for name, values in taken.items():
                times[name].append(values)
            entry["engines"] = [
                {
                    "name": worker.engine.name,
                    **_statistics(times[worker.engine.name], times["tern"]),
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
            keep()
        say(f"{threads} threads: layers and ceiling")
        for worker, row in zip(workers, entry["engines"], strict=True):
            memory = worker.ask("memory")
            row |= {"peak_rss_bytes": memory["peak_bytes"], "own_rss_bytes": memory["own_bytes"]}
        ceiling = None if metadata.get("code") else workers[0].ask("ceiling", seconds)  # the CPU's
        entry["steps"] = _steps(metadata, workers[0].ask("steps", 4 * seconds)["us"], ceiling)
        entry["ceiling_gadds"] = ceiling
        keep()
    finally:
        for worker in workers:
            worker.close()


def check_request(artifact: str | Path, against: Sequence[str], threads: Sequence[int], rounds: int) -> dict[str, Any]:
    """Refuse what no machine could measure, see :func:`bench`; returns the artifact's metadata."""
    for name in against:
        if name not in peers.KNOWN:
            raise BenchError(f"against must be one of {', '.join(peers.KNOWN)}, got {name!r}")
    if not threads:
        raise BenchError("threads must be one number or several, got none")
    try:
        for count in threads:
            checked(count)
    except (TypeError, ValueError) as error:
        raise BenchError(str(error)) from error
    if rounds < 1:
        raise BenchError(f"rounds must be at least 1, got {rounds}")
    metadata = store.read_metadata(user_path(artifact, "artifact"))
    if metadata["target"]["tvm"].get("kind") == "c":
        raise BenchError(
            f"{artifact} is C source: compile it for the board and time model_run there, as examples/c does"
        )
    return metadata


def bench(
    artifact: str | Path,
    against: Sequence[str] = ("onnxruntime",),
    threads: Sequence[int] = (1,),
    rounds: int = 9,
    seconds: float = 0.25,
    progress: Callable[[str], None] | None = None,
    machine: Machine | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Measure an artifact and its alternatives in one run.

    Args:
        artifact: Directory made by :func:`tvm_schedules.build` for this machine or its graphics processor.
        against: Which alternatives; ``onnxruntime`` is known.
        threads: Numbers of threads; every engine is pinned to that many CPUs.
        rounds: Rounds of the interleaving.
        seconds: Time for one engine in one round.
        progress: Called with a line of text before each stage.
        machine: Which to measure on; None means this machine.
        keep: Called with what there is so far after every round, so that a failure later on loses none of it.

    Returns:
        Plain data for JSON: ``machine``, ``before``, ``after``, ``artifact``, ``results`` (one entry per number of
        threads with ``engines``, ``steps``, ``ceiling_gadds``), ``skipped``.

    Raises:
        BenchError: An unknown alternative, a number of threads that the machine does not have, or our own engine
            failed.
        ArtifactError: The artifact is damaged.
    """
    folder, metadata = user_path(artifact), check_request(artifact, against, threads, rounds)
    machine = machine or ThisMachine()
    cpus = machine.cpus()
    for count in threads:
        if cpus and count > len(cpus):
            raise BenchError(f"threads must be between 1 and the {len(cpus)} CPUs that may be used, got {count}")
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
        "rounds": rounds,
        "seconds": seconds,
        "results": [],
        "skipped": [],
    }

    def save() -> None:
        result["after"] = machine.condition()
        if keep is not None:
            keep(result)

    with temporary_folder("bench") as temporary:
        if "onnxruntime" in against:
            reason = machine.lacks("onnxruntime")
            if reason is None:
                say("prepare onnxruntime's models")
                found, refused = peers.onnxruntime_engines(folder, Path(temporary), peers.overflows(description))
                engines += found
            else:
                refused = [("onnxruntime", reason)]
            result["skipped"] += [{"name": name, "reason": reason} for name, reason in refused]
        for count in threads:
            entry: dict[str, Any] = {"threads": count, "cpus": cpus[:count], "rounds": 0, "engines": [], "steps": []}
            entry |= {"skipped": [], "ceiling_gadds": None}
            result["results"].append(entry)
            _run_threads(entry, machine, engines, folder, metadata, rounds, seconds, say, save)
    return result
