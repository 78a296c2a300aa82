"""Interleaved measurement: every engine runs in every round, so that a slow moment of the machine hits all alike."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.artifact import store
from tvm_schedules.bench import peers, system
from tvm_schedules.errors import BenchError


class Worker:
    """A running engine, see :mod:`tvm_schedules.bench.worker`."""

    def __init__(self, engine: peers.Engine, artifact: Path, threads: int, cpus: Sequence[int]) -> None:
        self.engine = engine
        config = {
            "engine": engine.kind,
            "path": engine.path,
            "two_bit": engine.two_bit,
            "artifact": str(artifact),
            "threads": threads,
            "cpus": list(cpus),
        }
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tvm_schedules.bench.worker", json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.ready = self._answer()
        except BenchError:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {}
        if not line or "failed" in answer:
            self._errors.seek(0)
            reason = answer.get("failed") or " ".join(self._errors.read().split()[-40:])
            raise BenchError(f"{self.engine.name} failed: {reason or f'exit status {self._process.wait()}'}")
        return answer

    def ask(self, do: str, seconds: float = 0.0) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            BenchError: The engine failed or died.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died: its last words are in the answer
            self._process.stdin.write(json.dumps({"do": do, "seconds": seconds}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


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


def _steps(metadata: dict[str, Any], times: Sequence[float], ceiling: dict[str, float]) -> list[dict[str, Any]]:
    """Per-step table: time, share, work done a second, and how near that is to the machine's ceiling."""
    total = sum(times) or 1.0
    rows = []
    for step, us in zip(metadata["steps"], times, strict=True):
        rate = 1e-3 / us if us > 0 else 0.0  # 1e9 operations a second, for one operation
        gadds = step.get("nonzero_macs", 0) * rate
        top = ceiling["u8" if step["operand"] == "uint8" else "f32"]
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
                "ceiling_share": gadds / top if gadds else None,
            }
        )
    return rows


def _run_threads(
    engines: Sequence[peers.Engine],
    artifact: Path,
    metadata: dict[str, Any],
    threads: int,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """All engines with one number of threads."""
    cpus = system.usable_cpus()[:threads]
    workers: list[Worker] = []
    skipped = []
    try:
        for engine in engines:
            say(f"{threads} threads: load {engine.name}")
            try:
                workers.append(Worker(engine, artifact, threads, cpus))
            except BenchError as error:
                if engine.kind == "tern":
                    raise
                skipped.append({"name": engine.name, "reason": str(error)})
        times: dict[str, list[list[float]]] = {worker.engine.name: [] for worker in workers}
        for index in range(rounds):
            say(f"{threads} threads: round {index + 1} of {rounds}")
            for offset in range(len(workers)):
                worker = workers[(index + offset) % len(workers)]
                time.sleep(0.01)  # the last engine's threads spin a little before they sleep
                times[worker.engine.name].append(worker.ask("time", seconds)["us"])
        tern = workers[0]
        say(f"{threads} threads: layers and ceiling")
        ceiling = tern.ask("ceiling", seconds)
        step_times = tern.ask("steps", 4 * seconds)["us"]
        rows = []
        for worker in workers:
            memory = worker.ask("memory")
            rows.append(
                {
                    "name": worker.engine.name,
                    **_statistics(times[worker.engine.name], times["tern"]),
                    "peak_rss_bytes": memory["peak_bytes"],
                    "own_rss_bytes": memory["own_bytes"],
                    "file_bytes": worker.engine.bytes,
                    "load_seconds": worker.ready["load_seconds"],
                    "relative_error": worker.ready["error"],
                }
            )
    finally:
        for worker in workers:
            worker.close()
    return {
        "threads": threads,
        "cpus": cpus,
        "engines": rows,
        "skipped": skipped,
        "ceiling_gadds": ceiling,
        "steps": _steps(metadata, step_times, ceiling),
    }


def bench(
    artifact: str | Path,
    against: Sequence[str] = ("onnxruntime",),
    threads: Sequence[int] = (1,),
    rounds: int = 9,
    seconds: float = 0.25,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure an artifact and its alternatives in one run.

    Args:
        artifact: Directory made by :func:`tvm_schedules.build` for this machine.
        against: Which alternatives; ``onnxruntime`` is known.
        threads: Numbers of threads; every engine is pinned to that many CPUs.
        rounds: Rounds of the interleaving.
        seconds: Time for one engine in one round.
        progress: Called with a line of text before each stage.

    Returns:
        Plain data for JSON: ``machine``, ``before``, ``after``, ``artifact``, ``results`` (one entry per number of
        threads with ``engines``, ``steps``, ``ceiling_gadds``), ``skipped``.

    Raises:
        BenchError: An unknown alternative, a number of threads that the machine does not have, or our own engine
            failed.
        ArtifactError: The artifact is damaged.
    """
    for name in against:
        if name not in peers.KNOWN:
            raise BenchError(f"against must be one of {', '.join(peers.KNOWN)}, got {name!r}")
    cores = len(system.usable_cpus())
    for count in threads:
        if not 1 <= count <= cores:
            raise BenchError(f"threads must be between 1 and the {cores} CPUs that may be used, got {count}")
    if rounds < 1:
        raise BenchError(f"rounds must be at least 1, got {rounds}")
    folder = Path(artifact)
    metadata = store.read_metadata(folder)
    say = progress or (lambda line: None)
    engines, skipped = [peers.ours(folder, metadata)], []
    with tempfile.TemporaryDirectory(prefix="tern-bench-") as temporary:
        if "onnxruntime" in against:
            say("prepare onnxruntime's models")
            found, refused = peers.onnxruntime_engines(folder, Path(temporary))
            engines += found
            skipped += [{"name": name, "reason": reason} for name, reason in refused]
        before = system.condition()
        results = [_run_threads(engines, folder, metadata, count, rounds, seconds, say) for count in threads]
    return {
        "artifact": {
            "path": str(folder),
            "target": metadata["target"]["name"],
            "packages": metadata["packages"],
            "quantisation": metadata["quantisation"],
            "files": {name: entry["bytes"] for name, entry in metadata["files"].items()},
        },
        "machine": system.machine(),
        "before": before,
        "after": system.condition(),
        "rounds": rounds,
        "seconds": seconds,
        "results": results,
        "skipped": skipped,
    }
