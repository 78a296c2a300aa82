"""Kills exports, trainings, tunings and benchmarks at random moments and looks at what is left.

Every run is a fork of a process that has imported everything, so that the kill (SIGKILL or SIGTERM, to that process
alone) hits the work. Afterward no process of it may stay, and nothing that is wrong may be accepted: the artifact is
the earlier or the new one, a checkpoint is read or refused plainly, the tuner's database and the benchmark's file are
whole. At the end a run is left in peace and must clean up what the others left.

A third of the moments are drawn from the time that a run takes, the others from the gaps between changes of its files,
each gap as often as any other (:mod:`.moments`). Runs that are over before their moment comes do not count: it goes on
until so many were killed. With ``--folder`` what was counted is kept after every run, and the same command goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from benchmarks.kills.moments import between, changes
from benchmarks.kills.processes import MARK, Run, described, forked, offspring, wait, wait_while_it_works
from benchmarks.kills.tasks import TASKS, Task

PATIENCE = 60.0
"""Seconds after which a process that a killed run has started must be gone."""
LONGEST = 3600.0
"""Seconds after which a run that nobody kills is given up."""


def temporary(folder: Path) -> list[str]:
    """What of ours is in the temporary directory of a task; libraries of others leave files there as well."""
    return [name for name in os.listdir(folder / "tmp") if name.startswith(("tern-", ".tern-"))]


def checked(task: Task, folder: Path) -> list[str]:
    """What is wrong, by a process of its own: a library that crashes is a finding and not the end."""
    note = folder.parent / f"{task.name}.problems"
    note.unlink(missing_ok=True)
    child = forked(lambda: note.write_text(json.dumps(task.problems(folder))), folder / "log")
    status = wait_while_it_works(child, 300)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return ["looking at what is left takes for ever"]
    if status:
        return [f"looking at what is left ends with {status}: {(folder / 'log').read_text()[-1500:]}"]
    return list(json.loads(note.read_text()))


@dataclass
class Tally:
    """What was counted; kept in a file.

    Attributes:
        runs: All of them.
        killed: Those that a signal met before their end.
        advanced: Those of the killed ones that had written a result by then.
        outcomes: How runs ended, and how often.
        litter: Signals after which files were left for the next run, and how often.
        problems: What was wrong.
        length: Seconds that a run takes.
        times: Seconds after which files of a run changed, and at last those after which it ended.
        gaps: How many of the killed runs ended after so many changes of files, where that was chosen.
    """

    runs: int = 0
    killed: int = 0
    advanced: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    litter: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    length: float = 0.0
    times: list[float] = field(default_factory=list)
    gaps: dict[str, int] = field(default_factory=dict)

    def report(self, name: str) -> str:
        """All of it in a line."""
        told = ", ".join(f"{number} {how}" for how, number in sorted(self.outcomes.items()))
        dirty = ", ".join(f"{number} of {how}" for how, number in sorted(self.litter.items())) or "none"
        return (
            f"{name}: {self.killed} killed of {self.runs} runs of {self.length:.1f} s ({told}), {self.advanced} after "
            f"a result of their own, {sum(self.gaps.values())} in {len(self.gaps)} of {len(self.times)} gaps between "
            f"changes of files; {len(self.problems)} problems; files left for the next run: {dirty}"
        )


class Killer:
    """Kills runs of one task.

    Args:
        task: The task; it is imported here.
        seed: Of moments and signals.
        folder: Where it works, and where a killer that was stopped has worked.
        say: Called with a line for what is found.

    Attributes:
        tally: What was counted.
    """

    def __init__(self, task: Task, seed: int, folder: Path, say: Callable[[str], None]) -> None:
        self.task, self.seed, self.folder, self.say = task, seed, folder, say
        self._note = folder.parent / f"{task.name}.tally"
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = str(folder / "tmp")
        tempfile.tempdir = None
        task.load()
        if self._note.exists():
            self.tally = Tally(**json.loads(self._note.read_text()))
            return
        self.tally = Tally()
        self._in_peace(lambda: task.prepare(folder))
        self.tally.times = self._in_peace(lambda: task.work(folder, 1))
        self.tally.length = self.tally.times[-1]

    def _in_peace(self, action: Callable[[], object]) -> list[float]:
        """When files changed in an action that nobody kills, and its end.

        Raises:
            RuntimeError: It fails.
        """
        run = Run(action, self.folder / "log")
        times = changes(self.folder, lambda seconds: run.ended(seconds) or run.seconds() > LONGEST)
        if run.status is None:
            run.give_up()
        if run.status != 0:
            raise RuntimeError(f"{self.task.name} ends with {run.status}: {(self.folder / 'log').read_text()[-2000:]}")
        return [*times, run.seconds()]

    def once(self) -> None:
        """Kill a run, and look at what is left."""
        tally, index = self.tally, self.tally.runs + 2
        random = Random(f"{self.task.name}/{self.seed}/{index}")
        number = random.choice([signal.SIGKILL, signal.SIGTERM])
        place = random.randrange(len(tally.times)) if random.random() < 2 / 3 else None
        share, moment = random.random(), random.random() * 1.05 * tally.length
        name = f"run {index}, {number.name} after {f'{moment:.2f} s' if place is None else f'{place} changes'}"
        os.environ[MARK] = mark = f"{self.task.name}-{os.getpid()}-{index}"
        before, old = self._results(), set(self._dirt())
        run = Run(lambda: self.task.work(self.folder, index), self.folder / "log")
        if place is None:
            run.ended(moment)
        else:
            self._until(run, place, share)
        if run.status is None:
            if place is None:
                tally.length *= 1.02  # about one run in ten should come to its end, however busy the machine is
            os.kill(run.number, number)
            run.ended(PATIENCE)
            if run.status != 0:  # otherwise it was at its end
                tally.killed += 1
                tally.advanced += self._results() != before
                if place is not None:
                    _count(tally.gaps, str(place))
        else:
            tally.length = 0.8 * tally.length + 0.2 * run.seconds()
            if run.status:
                tally.problems.append(f"run {index}, not killed: {(self.folder / 'log').read_text()[-1500:]}")
        if run.status is None:
            tally.problems.append(f"{name}: that does not end it")
            run.give_up()
        tally.runs += 1
        _count(tally.outcomes, _name(run.status))
        self._wait_for_offspring(mark, name)
        if dirt := [name for name in self._dirt() if name not in old]:
            _count(tally.litter, number.name)
            self.say(f"{self.task.name}: {name} leaves {', '.join(dirt)[:200]}")
        for text in checked(self.task, self.folder):
            tally.problems.append(f"{name}: {text}")
            self.say(f"{self.task.name}: {tally.problems[-1]}")
        self._note.write_text(json.dumps(asdict(tally)))

    def _until(self, run: Run, place: int, share: float) -> None:
        """Wait for the moment in a gap between two changes of files, or for the end of the run."""
        found = changes(self.folder, run.ended, place)
        if run.status is None:
            run.ended(between(self.tally.times, place, share).delay(run.seconds()))
        else:
            self.tally.times = [*found, run.seconds()]

    def _dirt(self) -> list[str]:
        """Files that a complete run leaves none of."""
        return [*self.task.litter(self.folder), *temporary(self.folder)]

    def _results(self) -> dict[str, int]:
        """When each of the task's results was written."""
        paths = [path for pattern in self.task.results for path in self.folder.glob(pattern)]
        return {str(path): path.stat().st_mtime_ns for path in paths}

    def _wait_for_offspring(self, mark: str, name: str) -> None:
        """Nothing that the run has started may stay."""
        finish = time.monotonic() + PATIENCE
        while (left := offspring(mark)) and time.monotonic() < finish:
            time.sleep(0.05)
        for process in left:
            self.tally.problems.append(f"{name}: a process stays: {described(process)}")
            self.say(f"{self.task.name}: {self.tally.problems[-1]}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def finish(self) -> None:
        """A run that nobody kills works, and leaves nothing of the others."""
        os.environ.pop(MARK, None)
        problems = self.tally.problems
        try:
            self._in_peace(lambda: self.task.work(self.folder, 10**6))
        except RuntimeError as error:
            problems.append(f"a run in peace fails afterward: {error}")
        problems += checked(self.task, self.folder)
        if left := self._dirt():
            problems.append(f"a run in peace leaves {', '.join(left)}")
        foreign = len(os.listdir(self.folder / "tmp"))
        self.say(f"{self.tally.report(self.task.name)}; files of other libraries in the temporary directory: {foreign}")
        for text in problems:
            self.say(f"  {text}")


def run(task: Task, count: int, seed: int, seconds: float, folder: Path, say: Callable[[str], None]) -> int:
    """Kill so many runs of a task, for at most so many seconds; returns the number of problems."""
    killer = Killer(task, seed, folder, say)
    finish = time.monotonic() + seconds
    while killer.tally.killed < count and time.monotonic() < finish:
        killer.once()
    killer.finish()
    return len(killer.tally.problems)


def _count(where: dict[str, int], name: str) -> None:
    where[name] = where.get(name, 0) + 1


def _name(status: int | None) -> str:
    if status is None:
        return "did not end"
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status is 1 when there is a problem."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    add = parser.add_argument
    add("--task", action="append", choices=list(TASKS), help="only this one, repeatable")
    add("--count", type=int, default=20, help="runs of every task that are to be killed (default: 20)")
    add("--seconds", type=float, default=1e6, help="stop a task after this time (default: never)")
    add("--folder", type=Path, help="work here and keep it, to go on later (default: a temporary one)")
    add("--seed", type=int, default=0, help="of moments and signals (default: 0)")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error(f"--count must be at least 1, got {options.count}")
    problems = 0

    def say(line: str) -> None:
        print(line, flush=True)

    with contextlib.ExitStack() as ends:
        place = options.folder or ends.enter_context(tempfile.TemporaryDirectory(prefix="tern-kills-"))
        for name in options.task or TASKS:
            # A process for every task: what one imports is not in the way of another's forks.
            child = forked_task(name, options, Path(place).absolute(), say)
            problems += wait(child, 1e9) or 0
    return 1 if problems else 0


def forked_task(name: str, options: argparse.Namespace, place: Path, say: Callable[[str], None]) -> int:
    """A child process that runs a task; its exit code says whether there is a problem."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = min(1, run(TASKS[name], options.count, options.seed, options.seconds, place / name, say))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child


if __name__ == "__main__":
    sys.exit(main())
