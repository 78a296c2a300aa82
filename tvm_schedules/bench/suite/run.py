"""Measures cases: engines take turns, and every case is in the file as soon as it is done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.artifact import store
from tvm_schedules.bench.machines import Running
from tvm_schedules.bench.suite.prepare import Contender, Say
from tvm_schedules.common import schema
from tvm_schedules.common.files import write_file
from tvm_schedules.common.reading import read_json, reading
from tvm_schedules.common.schema import Every, Maybe, count, positive, real
from tvm_schedules.engines import system
from tvm_schedules.engines.process import Worker
from tvm_schedules.engines.worker import busy
from tvm_schedules.errors import BenchError

FORMAT = 1
QUIET = 0.05
"""Share of the CPUs that others may take while we wait for a quiet moment."""

DISTURBED = 0.12
"""Share a CPU that others may take during a measurement before it is repeated once."""


class Results:
    """A file of finished measurements; every new one is written at once, as a whole.

    Args:
        path: JSON file; None keeps everything in memory.
        stamp: What the measurements are of; an entry with another stamp does not count.

    Raises:
        BenchError: The file is not one of these.
    """

    def __init__(self, path: Path | None, stamp: str) -> None:
        self.path, self.stamp = path, stamp
        self.data: dict[str, Any] = {"format": FORMAT, "machine": system.machine(), "entries": {}}
        if path is not None and path.exists():
            self.data["entries"] = read_results(path)["entries"]

    def finished(self, key: str) -> bool:
        """Whether an entry is there and up to date."""
        return bool(self.data["entries"].get(key, {}).get("stamp") == self.stamp)

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Add an entry and write the file."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.data["entries"][key] = {"stamp": self.stamp, "when": when, **entry}
        if self.path is not None:
            write_file(self.path, json.dumps(self.data, indent=1) + "\n")


PEER = {"ratio": positive, "of_min": positive, "noise": real}
_RATIOS = Every({"best": Maybe(str), "floats": bool, "zeros": Maybe(count), "peers": Every(PEER)})
_ENGINE = {"name": str, "ours": bool, **dict.fromkeys(("median_ms", "min_ms", "others", "relative_error"), real)}
_STEP = {"name": str, "kernel": str, "us": real, "macs?": count, "nonzero_macs?": count, "bytes_weights?": count}
_CASE = {
    **{"stamp": str, "when": str, "threads": count, "load": list, "engines": [_ENGINE], "ratios": _RATIOS},
    **{"steps": Every([_STEP]), "skipped": [{"name": str, "reason": str}]},
}
_CEILING = {"stamp": str, "threads": count, "rates": Every(positive)}


def _check(results: Mapping[str, Any]) -> None:
    """Raise ValueError unless every entry can be shown."""
    for key, entry in results["entries"].items():
        schema.check(entry, _CEILING if key.startswith("ceilings/") else _CASE, f"entries.{key}")
        check_best(entry.get("ratios", {}))


def check_best(ratios: Mapping[str, Any]) -> None:
    """Raise ValueError unless the best peers are among the peers."""
    for ours, row in ratios.items():
        if row["best"] is not None and row["best"] not in row["peers"]:
            raise ValueError(f"ratios.{ours}: the best peer {row['best']!r} is none of its peers")


def read_results(
    path: Path,
    what: str = "file",
    advice: str = "choose another name, or delete it",
    check: Callable[[Mapping[str, Any]], None] = _check,
) -> dict[str, Any]:
    """A file of results, or another with ``entries`` that the suite has written.

    Args:
        path: The file.
        what: How messages call it.
        advice: What they say to do when it is something else.
        check: Raises ValueError where an entry is not of the form that it should have.

    Raises:
        BenchError: It cannot be read, or is another file.
    """
    try:
        data = read_json(path, BenchError, what, f"; {advice}")
    except FileNotFoundError:
        raise BenchError(f"cannot read the {what} {path}: there is no such file") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("entries"), dict):
        raise BenchError(f"{path} is not a {what} of this suite (format {FORMAT}); {advice}")
    with reading(f"the {what} {path}", BenchError, f"; {advice}"):
        check(data)
    return data


def wait_for_quiet(cpus: Sequence[int], limit: float) -> None:
    """Wait until others leave these CPUs alone, at most ``limit`` seconds."""
    finish = time.perf_counter() + limit
    while time.perf_counter() < finish:
        before, start = busy(list(cpus)), time.perf_counter()
        time.sleep(0.1)
        if busy(list(cpus)) - before <= QUIET * len(cpus) * (time.perf_counter() - start) + 0.011:
            return


def _one(worker: Running, cpus: Sequence[int], seconds: float, patience: float) -> dict[str, Any]:
    """One engine's turn; once more if others were in the way."""
    best: dict[str, Any] = {}
    for _ in range(2 if patience else 1):
        wait_for_quiet(cpus, patience)
        answer = worker.ask("time", seconds)
        if not best or answer["others"] < best["others"]:
            best = answer
        if best["others"] <= DISTURBED * len(cpus):
            break
    return best


def run_case(
    contenders: Sequence[Contender], threads: int, rounds: int, seconds: float, say: Say, patience: float = 3.0
) -> dict[str, Any]:
    """Measure a case's engines with one number of threads.

    Args:
        contenders: The engines to measure, ours first.
        threads: Every engine is pinned to that many CPUs.
        rounds: Turns of every engine.
        seconds: Length of a turn.
        say: Called with a line at every stage.
        patience: Seconds to wait at most before a turn until others leave the CPUs alone, and again before it is
            repeated because they did not; 0 neither waits nor repeats.

    Returns:
        ``engines`` (name, zeros, medians and minima, medians of the rounds in ms), ``ratios`` by share of zeros and
        peer, ``steps`` of our libraries, ``skipped``, ``load`` of the machine before and after.

    Raises:
        BenchError: Our own library failed.
    """
    cpus = system.usable_cpus()[-threads:]
    before = system.condition()["load"]
    running: list[tuple[Contender, Running]] = []
    skipped = []
    try:
        for contender in contenders:
            say(f"load {contender.engine.name}")
            try:
                started = Worker(contender.engine, contender.artifact, threads, cpus)
                running.append((contender, started))
            except BenchError as error:
                if contender.ours:
                    raise
                skipped.append({"name": contender.engine.name, "reason": str(error)})
        taken: dict[str, list[dict[str, Any]]] = {contender.engine.name: [] for contender, _ in running}
        for index in range(rounds):
            say(f"round {index + 1} of {rounds}")
            for offset in range(len(running)):
                contender, worker = running[(index + offset) % len(running)]
                taken[contender.engine.name].append(_one(worker, cpus, seconds, patience))
        steps = {}
        for contender, worker in running:
            if contender.ours:
                metadata = store.read_metadata(contender.artifact, check_hashes=False)
                times = worker.ask("steps", 2 * seconds)["us"]
                steps[contender.engine.name] = [
                    {**step, "us": us} for step, us in zip(metadata["steps"], times, strict=True)
                ]
        engines = [_summary(c, worker.ready["error"], taken[c.engine.name]) for c, worker in running]
    finally:
        for _, worker in running:
            worker.close()
    return {
        "threads": threads,
        "cpus": cpus,
        "rounds": rounds,
        "seconds": seconds,
        "load": [before, system.condition()["load"]],
        "engines": engines,
        "ratios": ratios(engines),
        "steps": steps,
        "skipped": skipped,
    }


def _summary(contender: Contender, error: float, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = np.concatenate([np.asarray(answer["us"]) for answer in answers]) / 1e3
    return {
        "name": contender.engine.name,
        "ours": contender.ours,
        "floats": contender.floats,
        "zeros": contender.zeros,
        "median_ms": float(np.median(values)),
        "min_ms": float(values.min()),
        "rounds_ms": [float(np.median(answer["us"])) / 1e3 for answer in answers],
        "others": float(np.median([answer["others"] for answer in answers])),
        "runs": int(values.size),
        "file_bytes": contender.engine.bytes,
        "relative_error": error,
    }


def ratios(engines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Peers' times by ours.

    Returns:
        For each of our engines: ``zeros``, ``floats``, ``best`` (name of the fastest peer that counts for it, None
        without peers), and ``peers``: by name ``ratio`` (median over rounds of the ratio of medians), ``of_min`` (ratio
        of minima) and ``noise`` (half the interquartile range over rounds, as a share of the ratio).
    """
    found = {}
    for own in engines:
        if not own["ours"]:
            continue
        table = {}
        for peer in engines:
            if peer["ours"] or (peer["zeros"] is not None and peer["zeros"] != own["zeros"]):
                continue
            each = np.array(peer["rounds_ms"]) / np.array(own["rounds_ms"])
            low, middle, high = np.percentile(each, [25, 50, 75])
            table[peer["name"]] = {
                "ratio": float(middle),
                "of_min": peer["min_ms"] / own["min_ms"],
                "noise": float((high - low) / 2 / middle),
            }
        best = min(table, key=lambda name: table[name]["ratio"]) if table else None
        found[own["name"]] = {"zeros": own["zeros"], "floats": own["floats"], "best": best, "peers": table}
    return found
