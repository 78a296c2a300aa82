"""Ratios that are worth keeping, and what has moved since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot, log
from pathlib import Path
from typing import Any

from tvm_schedules.bench.suite.run import FORMAT, PEER, check_best, read_results
from tvm_schedules.common import schema
from tvm_schedules.common.schema import Every, Maybe

FORM = {"machine": dict, "entries": Every({"ratios": Every({"best": Maybe(str), "peers": Every(PEER)})})}

SMALLEST = 0.04
"""Changes below this are never called changes: what two quiet runs of the same code differ by."""


def read(path: Path) -> dict[str, Any]:
    """A baseline from its file.

    Raises:
        BenchError: The file cannot be read, or is another one.
    """
    return read_results(path, "baseline", "make one with --write-baseline", _check)


def _check(data: Mapping[str, Any]) -> None:
    """Raise ValueError unless the ratios can be compared with others."""
    schema.check(data, FORM)
    for entry in data["entries"].values():
        check_best(entry["ratios"])


def make(results: Mapping[str, Any]) -> dict[str, Any]:
    """The ratios of a run with its machine: what a baseline file holds."""
    kept = {}
    for key, entry in sorted(results["entries"].items()):
        if entry.get("ratios") and any(row["best"] for row in entry["ratios"].values()):
            kept[key] = {
                "when": entry["when"],
                "load": entry["load"],
                "ratios": {
                    name: {
                        "best": row["best"],
                        "peers": {
                            peer: {number: round(value, 4) for number, value in numbers.items()}
                            for peer, numbers in row["peers"].items()
                        },
                    }
                    for name, row in entry["ratios"].items()
                },
            }
    return {"format": FORMAT, "machine": results["machine"], "entries": kept}


@dataclass(frozen=True)
class Change:
    """One ratio then and now.

    Attributes:
        key: The case and its number of threads.
        ours: The name of our engine.
        peer: The peer that was the best one then.
        old: Its time by ours then; more is better for us.
        new: The same now; None where it was not measured now.
        band: Change that noise explains, as a share.
    """

    key: str
    ours: str
    peer: str
    old: float
    new: float | None
    band: float

    @property
    def change(self) -> float | None:
        """Relative change."""
        return None if self.new is None else self.new / self.old - 1

    @property
    def verdict(self) -> str:
        """``same``, ``faster``, ``SLOWER`` (ours against the peer), or ``not measured``."""
        if self.new is None:
            return "not measured"
        moved = log(self.new / self.old)
        if abs(moved) <= self.band:
            return "same"
        return "faster" if moved > 0 else "SLOWER"


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What moved between two baselines (:func:`make` makes one of a run).

    A ratio is held against the ratio to the same peer. The band is twice the noise of both, and at least
    :data:`SMALLEST`.
    """
    changes = []
    for key, entry in old["entries"].items():
        for ours, row in entry["ratios"].items():
            if row["best"] is None:
                continue
            before = row["peers"][row["best"]]
            now = new["entries"].get(key, {}).get("ratios", {}).get(ours, {}).get("peers", {}).get(row["best"])
            band = max(SMALLEST, 2 * hypot(before["noise"], now["noise"] if now else 0.0))
            changes.append(Change(key, ours, row["best"], before["ratio"], now["ratio"] if now else None, band))
    return changes


def same_machine(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two baselines are of the same kind of machine."""
    return all(old["machine"].get(field) == new["machine"].get(field) for field in ("cpu", "cores"))
