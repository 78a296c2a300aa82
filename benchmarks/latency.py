"""Latencies of artifacts on this machine: measured in turns, so that what else it does meets all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.artifact import store
from tvm_schedules.bench import peers
from tvm_schedules.bench.machines import ThisMachine
from tvm_schedules.bench.profile import QUARTILE
from tvm_schedules.engines.process import Engine

__all__ = ["measure", "quickest"]


def measure(
    artifacts: Sequence[Path],
    rounds: int,
    seconds: float,
    steps: bool = False,
    others: Sequence[tuple[Engine, Path]] = (),
) -> list[dict[str, Any]]:
    """Times every artifact with one thread.

    Args:
        artifacts: Their directories.
        rounds: How often each is measured.
        seconds: How long in a round.
        steps: Also time the steps one by one; not with ``others``, which have none.
        others: Other engines that take turns with them, each with the artifact whose network it runs.

    Returns:
        Of every artifact, then of every other engine, ``times``, the lower quartile of every round in milliseconds,
        and ``steps``, for each the microseconds of its quickest round.
    """
    machine = ThisMachine()
    engines = [*((peers.ours(one, store.read_metadata(one)), one) for one in artifacts), *others]
    found: list[dict[str, Any]] = [{"times": []} for _ in engines]
    for _ in range(rounds):
        for (engine, artifact), own in zip(engines, found, strict=True):
            running = machine.start(engine, artifact, 1, machine.cpus()[:1])
            try:
                times = running.ask("time", seconds)["us"]
                own["times"].append(float(np.percentile(times, QUARTILE)) / 1e3)
                if steps:
                    now = running.ask("steps", seconds)["us"]
                    own["steps"] = [min(pair) for pair in zip(now, own.get("steps", now), strict=True)]
            finally:
                running.close()
    return found


def quickest(measured: dict[str, Any]) -> float:
    """Milliseconds: the smallest of the rounds, as what other processes take only adds to them."""
    return min(measured["times"])
