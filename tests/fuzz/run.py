"""Runs readers on damaged inputs, each in a process of its own, and says what was neither read nor refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MEMORY = 1 << 30
"""Bytes that a case may take beside what the process has before."""

PATIENCE = 60.0
"""Seconds that a case may take."""

STARTS = 20
"""So many processes of a reader may die before the rest of its cases is given up."""


@dataclass
class Report:
    """What happened to a reader.

    Attributes:
        reader: Its name.
        wanted: How many cases it was to be given.
        counts: Cases by outcome.
        failures: Case, outcome and traceback of those that were neither read nor refused.
    """

    reader: str
    wanted: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """How many were run."""
        return sum(self.counts.values())


def fuzz(
    name: str,
    folder: Path,
    first: int,
    last: int,
    seed: int = 0,
    seconds: float = 1e9,
    memory: int = MEMORY,
    show: bool = False,
    patience: float = PATIENCE,
    module: str = "tests.fuzz.child",
) -> Report:
    """Run the cases ``first <= case < last`` of a reader, at most for so many seconds of a CPU.

    A process that a case ends is followed by another one, which goes on behind that case.
    """
    report = Report(name, last - first)
    place = folder / name.replace(" ", "-")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for start in range(STARTS):
        own = place / str(start)
        own.mkdir(parents=True)
        log, current = own / "log", own / "current"
        job = {
            "reader": name, "folder": str(folder / f"{name}-{start}"), "first": first, "last": last, "seed": seed,
            "seconds": seconds, "patience": patience, "memory": memory, "show": show, "log": str(log),
            "current": str(current),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", module, json.dumps(job)],
            env=environment,
            stdout=None if show else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        report.failures += [(line["case"], line["outcome"], line["text"]) for line in lines if "case" in line]
        shutil.rmtree(job["folder"], ignore_errors=True)
        if lines and "next" in lines[-1]:
            report.counts.update(lines[-1]["counts"])
            return report
        if not current.exists():
            raise RuntimeError(f"the process of {name} did not start:\n{done.stderr[-3000:]}")
        case = int(current.read_text())
        outcome = ended(done.returncode)
        report.failures.append((case, outcome, done.stderr[-3000:]))
        report.counts.update([outcome])
        report.counts.update({"before an end": case - first})
        first = case + 1
    return report


def ended(status: int) -> str:
    """How a process ended."""
    if status == -signal.SIGALRM:
        return "took too long"
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def tell(report: Report, say: Callable[[str], None] = print, most: int = 3) -> None:
    """A line for a reader, and the first failures of every kind."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report.counts.items()))
    of = "" if report.cases == report.wanted else f" of {report.wanted}, for which the time was too short"
    say(f"{report.reader}: {report.cases} cases{of}: {counts}")
    seen: Counter[str] = Counter()
    for case, outcome, text in report.failures:
        seen[outcome] += 1
        if seen[outcome] <= most:
            say(f"  case {case}: {outcome}\n{text}")


def names(wanted: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The readers of these names, all by default.

    Raises:
        ValueError: There is none of a name.
    """
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        raise ValueError(f"readers are {', '.join(known)}; got {', '.join(unknown)}")
    return list(wanted or known)
