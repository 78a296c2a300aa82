"""When a run is killed: at any time, or between any two changes of its files.

Most of a run's time is spent in few of its phases, importing and compiling, and putting a result in its place takes a
thousandth of it. Of moments that are drawn between two changes of files, each pair of changes has the same share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STEP = 0.005
"""Seconds between two looks."""


@dataclass(frozen=True)
class Moment:
    """A moment of a run.

    Attributes:
        change: After which change of files, counted from one; 0 is the start.
        share: Of the time until the next change, that far.
        length: Seconds until that next change, and ``before`` those until this one, as an earlier run took them.
        before: See ``length``.
    """

    change: int
    share: float
    length: float
    before: float

    def delay(self, seconds: float) -> float:
        """Seconds to wait after the change, to which this run, quicker or slower, has come after ``seconds``."""
        return self.share * self.length * (min(10.0, max(0.1, seconds / self.before)) if self.before else 1.0)


def between(times: list[float], place: int, share: float) -> Moment:
    """The moment in one of the gaps of a run.

    Args:
        times: Seconds after which its files changed, and at last those after which it ended.
        place: Which gap, from 0, the one before the first change.
        share: Part of the gap, in [0, 1).
    """
    before = times[place - 1] if place else 0.0
    return Moment(place, share, times[place] - before, before)


class Files:
    """Names, sizes and times of everything in a folder; equal when nothing has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last = self._look()

    def _look(self) -> dict[str, tuple[int, int, int]]:
        found, todo = {}, [str(self.folder)]
        while todo:
            try:
                with os.scandir(todo.pop()) as entries:
                    for entry in entries:
                        status = entry.stat(follow_symlinks=False)
                        found[entry.path] = (status.st_ino, status.st_size, status.st_mtime_ns)
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(entry.path)
            except FileNotFoundError:  # gone meanwhile
                continue
        return found

    def changed(self) -> bool:
        """Whether anything is other than at the last question."""
        now = self._look()
        changed, self._last = now != self._last, now
        return changed


def changes(folder: Path, ended: Callable[[float], bool], most: int | None = None) -> list[float]:
    """Seconds from now after which files of a folder changed, until so many changes, or until the run has ended.

    Args:
        folder: The folder.
        ended: Waits for so many seconds and says whether the run has ended.
        most: Number of changes that are waited for; None is all.
    """
    started, files = time.monotonic(), Files(folder)
    found: list[float] = []
    while most is None or len(found) < most:
        over = ended(STEP)
        if files.changed():
            found.append(time.monotonic() - started)
        if over:
            break
    return found
