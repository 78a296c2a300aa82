"""Latencies beside busy processes, as on a machine that is shared: ours with one thread and with two, and its peers.

Nothing is pinned: the system places the threads of all as it likes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.bench import peers, report
from tvm_schedules.bench.machines import Machine, Running, ThisMachine
from tvm_schedules.bench.measure import Request
from tvm_schedules.errors import BenchError

__all__ = ["THREAD_COUNTS", "busy", "crowded", "tables"]

THREAD_COUNTS = (1, 2)

_BUSY = """
import os, sys
print("busy", flush=True)
while os.getppid() == int(sys.argv[1]):  # also when the parent is killed, there is an end
    for _ in range(100000):
        pass
"""


@contextlib.contextmanager
def busy(count: int) -> Iterator[list[int]]:
    """So many processes that do nothing but take time from CPUs; none is left afterward, however this one ends.

    Yields:
        Their numbers.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            command = [sys.executable, "-S", "-c", _BUSY, str(os.getpid())]
            processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE))
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it runs
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def crowded(
    artifact: str | Path,
    count: int,
    request: Request = Request(),  # noqa: B008 - frozen
    machine: Machine | None = None,
    progress: Callable[[str], None] | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Measure an artifact and its alternatives, each with one thread and with two, beside busy processes.

    Args:
        artifact: Directory made by :func:`tvm_schedules.build` for this machine.
        count: Number of busy processes, at least 0.
        request: What to measure beside it, and for how long; its numbers of threads do not count.
        machine: Which to measure on; None means this one.
        progress: Called with a line of text before each stage.
        keep: Called with what there is so far after every round.

    Returns:
        Plain data for JSON: ``artifact``, ``busy``, ``machine``, ``before``, ``after``, ``rounds``, ``seconds``,
        ``engines`` (see :func:`statistics`), ``skipped``.

    Raises:
        BenchError: A wrong number, an unknown alternative, or our own engine failed.
        ArtifactError: The artifact is damaged.
    """
    if count < 0:
        raise BenchError(f"the number of busy processes must be at least 0, got {count}")
    folder, metadata = Path(artifact), replace(request, threads=THREAD_COUNTS).check(artifact)
    machine, say = machine or ThisMachine(), progress or (lambda line: None)
    result: dict[str, Any] = {
        "artifact": {"path": str(folder), "target": metadata["target"]["name"], "packages": metadata["packages"]},
        "busy": count,
        "machine": machine.describe(),
        "before": machine.condition(),
        "after": None,
        "rounds": 0,
        "seconds": request.seconds,
        "engines": [],
        "skipped": [],
    }
    engines, workers = [peers.ours(folder, metadata)], list[tuple[str, Running]]()
    with tempfile.TemporaryDirectory(prefix="tern-bench-") as temporary, contextlib.ExitStack() as ends:
        if "onnxruntime" in request.against:
            say("prepare onnxruntime's models")
            overflows = peers.overflows(result["machine"])
            found, refused = peers.onnxruntime_engines(folder, Path(temporary), overflows)
            engines += found
            result["skipped"] = [{"name": name, "reason": reason} for name, reason in refused]
        engines += [peers.by_file(name, request.pythons) for name in request.against if "=" in name]
        for engine in engines:
            for threads in THREAD_COUNTS:
                say(f"load {engine.name}, {threads} threads")
                worker = machine.start(engine, folder, threads, machine.cpus())
                ends.callback(worker.close)
                workers.append((f"{engine.name}, {threads} thread{'s' if threads > 1 else ''}", worker))
        ends.enter_context(busy(count))
        times: dict[str, list[list[float]]] = {name: [] for name, _ in workers}
        for index in range(request.rounds):
            say(f"beside {count} busy processes: round {index + 1} of {request.rounds}")
            for offset in range(len(workers)):
                name, worker = workers[(index + offset) % len(workers)]
                time.sleep(0.01)  # the last engine's threads spin a little before they sleep
                times[name].append(worker.ask("time", request.seconds)["us"])
            result["engines"], result["rounds"] = statistics(times), index + 1
            result["after"] = machine.condition()
            if keep is not None:
                keep(result)
    return result


def statistics(times: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """A summary of every engine's latencies.

    Args:
        times: By name, the rounds, in microseconds; the first one is what the others are compared with.

    Returns:
        For each ``name``, ``median_ms``, ``p99_ms``, ``mean_ms``, ``min_ms``, ``runs``, and ``ratios`` of the first
        three to the first engine's: of a slow machine's moments all engines have had their share, so that these are
        of all rounds together.
    """
    made: list[dict[str, Any]] = []
    for name, rounds in times.items():
        values = np.concatenate([np.asarray(entry) for entry in rounds]) / 1e3
        row: dict[str, Any] = {"name": name, "median_ms": float(np.median(values))}
        row |= {"p99_ms": float(np.percentile(values, 99)), "mean_ms": float(values.mean())}
        row |= {"min_ms": float(values.min()), "runs": int(values.size)}
        first = made[0] if made else row
        row["ratios"] = {key: row[f"{key}_ms"] / first[f"{key}_ms"] for key in ("median", "p99", "mean")}
        made.append(row)
    return made


def tables(result: dict[str, Any]) -> list[Any]:
    """``rich`` tables and lines of a result of :func:`crowded`."""
    from rich.table import Table

    table = Table(title=f"beside {result['busy']} busy processes, {result['rounds']} interleaved rounds")
    columns = ["engine", "median ms", "p99 ms", "mean ms", "min ms", "runs"]
    for index, column in enumerate([*columns, *(f"{key} ratio" for key in ("median", "p99", "mean"))]):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in result["engines"]:
        numbers = [f"{row[f'{key}_ms']:.4g}" for key in ("median", "p99", "mean", "min")]
        table.add_row(row["name"], *numbers, str(row["runs"]), *(f"{value:.2f}" for value in row["ratios"].values()))
    skipped = [f"{entry['name']} not run: {entry['reason']}" for entry in result["skipped"]]
    return [report.machine_line(result), table, *skipped, "ratios are to the first line; nothing is pinned"]
