"""Tuning in the compiler's process, on a device that only its parent can reach: an open session with a board."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.targets.registry import TargetSpec
from tvm_schedules.tuner.measure import Library, WrittenLibrary
from tvm_schedules.tuner.search import Tuning

__all__ = ["measure", "parts", "tuning_of"]


def parts(tuning: Tuning) -> dict[str, Any]:
    """What another process needs to know of ``tuning``, in JSON types."""
    return {
        "database": None if tuning.database is None else str(tuning.database),
        "threads": tuning.usual_threads(),
        "turns": tuning.turns,
        "device": tuning.device_name() if tuning.board is not None or tuning.device is not None else None,
    }


def tuning_of(data: Mapping[str, Any], folder: Path, ask: Callable[[str, Any], Any]) -> Tuning:
    """The same tuning in the other process.

    Args:
        data: What :func:`parts` gave.
        folder: Where files are handed over.
        ask: Calls :func:`measure` in the first process, by its name.
    """
    device = None if data["device"] is None else _Asking(data["device"], folder, ask)
    return Tuning(data["database"], threads=data["threads"], turns=data["turns"], device=device)


class _Asking:
    """A device that the other process measures on."""

    def __init__(self, name: str, folder: Path, ask: Callable[[str, Any], Any]) -> None:
        self.name, self._folder, self._ask, self._count = name, folder, ask, 0

    def time(self, made: Library, target: TargetSpec, threads: int, turns: int) -> np.ndarray:
        """See :class:`~.measure.Device`."""
        self._count += 1
        place = self._folder / f"tune{self._count}"
        made.write(place.with_suffix(".so"), target)
        np.savez(place.with_suffix(".npz"), arena=made.arena, constants=made.constants)
        value = {"place": str(place), "count": made.count, "threads": threads, "turns": turns}
        times = self._ask("measure", value | {"target": target.to_fields()})
        place.with_suffix(".so").unlink()
        place.with_suffix(".npz").unlink()
        return np.array(times)


def measure(tuning: Tuning, value: Mapping[str, Any]) -> list[list[float]]:
    """Seconds of a call ``[turns, candidates]`` of a library that the other process has written.

    Raises:
        TernError: The device cannot run the candidates.
    """
    place, target = Path(value["place"]), TargetSpec.from_fields(value["target"])
    with np.load(place.with_suffix(".npz")) as file:
        made = WrittenLibrary(place.with_suffix(".so"), file["arena"], file["constants"], value["count"])
    times: np.ndarray = tuning.device_for(target).time(made, target, value["threads"], value["turns"])
    return times.tolist()
