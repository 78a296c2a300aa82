"""Profile tables of a device, for :mod:`tvm_schedules.estimate`: kernels measured over shapes and shares of zeros."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.artifact import store
from tvm_schedules.artifact.build import build
from tvm_schedules.backends.cpu.files import LIBRARY
from tvm_schedules.bench import peers
from tvm_schedules.bench.machines import Machine, ThisMachine
from tvm_schedules.bench.profile_networks import large, networks
from tvm_schedules.common.files import temporary_folder
from tvm_schedules.estimate.fit import Row
from tvm_schedules.estimate.lowered import Lowered, lower
from tvm_schedules.estimate.table import Library, Table
from tvm_schedules.pipeline import read_graph
from tvm_schedules.targets.registry import resolve

__all__ = ["library_of", "profile"]

QUARTILE = 25
"""Of the times of a whole network: what others take from this process only adds to them."""


def profile(
    target: str = "host",
    machine: Machine | None = None,
    rounds: int = 5,
    seconds: float = 0.25,
    progress: Callable[[str], None] | None = None,
    models: Iterable[tuple[str, Any]] | None = None,
) -> Table:
    """Measures the kernels of a device with one thread.

    Every network is compiled, and in every round its steps are timed one by one, and then all in one call. Of a step
    the smallest of the rounds' medians counts.

    Args:
        target: What the device is, as :func:`tvm_schedules.build` takes it.
        machine: The device; this machine by default.
        rounds: How often every network is measured.
        seconds: For the steps of a network in a round.
        progress: Called with a line before each stage.
        models: Names and networks; those of :mod:`tvm_schedules.bench.profile_networks` by default.

    Raises:
        TernError: A network cannot be compiled or run there.
    """
    here, say = machine or ThisMachine(), progress or (lambda line: None)
    chosen = list(models if models is not None else chain(networks(), large()))
    spec, rows, libraries = resolve(target), [], []
    with temporary_folder("profile") as folder:
        for name, model in chosen:
            say(f"compile {name}")
            build(model, folder / name, target, verify=False)
        taken: dict[str, list[tuple[list[float], float]]] = {name: [] for name, _ in chosen}
        for index in range(rounds):
            for name, _ in chosen:
                say(f"round {index + 1} of {rounds}: {name}")
                taken[name].append(_measure(here, folder / name, seconds))
        for name, model in chosen:
            made = lower(read_graph(model), spec)
            steps = np.min([times for times, _ in taken[name]], axis=0)
            whole = min(total for _, total in taken[name])
            values = [*steps, max(0.0, whole - steps.sum())]
            rows += [Row(name, *one, value) for one, value in zip(made.counted(), values, strict=True)]
            libraries.append(library_of(name, made, folder / name))
    cpu = str(here.describe()["cpu"])
    when = time.strftime("%Y-%m-%d", time.gmtime())
    return Table(cpu, target, "seconds", "measured", when, tuple(rows), tuple(libraries))


def _measure(machine: Machine, artifact: Path, seconds: float) -> tuple[list[float], float]:
    """Seconds of every step, and of the whole network."""
    engine = peers.ours(artifact, store.read_metadata(artifact))
    running = machine.start(engine, artifact, 1, machine.cpus()[:1])
    try:
        steps = running.ask("steps", seconds)["us"]
        whole = float(np.percentile(running.ask("time", seconds / 2)["us"], QUARTILE))
    finally:
        running.close()
    return [us / 1e6 for us in steps], whole / 1e6


def library_of(name: str, made: Lowered, artifact: Path) -> Library:
    """What a compiled network takes on disk."""
    sizes = [(artifact / file).stat().st_size for file in (LIBRARY, store.METADATA)]
    return Library(name, made.kernels(), len(made.steps), *sizes)
