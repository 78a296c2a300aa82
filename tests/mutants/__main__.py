"""The command; see :mod:`tests.mutants`."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import tests.mutants
from tests.mutants.changes import Mutant, mutants
from tests.mutants.choose import PRELOADED, ROOT, Copy, Record, batches, near, under
from tests.mutants.explained import explanations

PACKAGES = ["tern_lightning", "tvm_schedules"]
SLACK = 30.0
"""CPU seconds that tests of a change may take above four times the seconds that they took when they were measured."""


def judge(tree: Copy, record: Record, mutant: Mutant, most: float) -> str:
    """What the tests say of a change: killed, timeout, survived, or untested where none comes by."""
    file = tree.folder / mutant.path
    original = file.read_bytes()
    todo = batches(record.tests(mutant), most)
    try:
        file.write_bytes(mutant.applied(original))
        for tests, seconds in todo:
            answer = tree.run(tests, SLACK + 4 * seconds)
            if answer["status"] == "timeout":
                return "timeout"
            if answer["status"]:
                return f"killed by {answer['result'] or 'an error of pytest'}"
        return "survived" if todo else "untested"
    finally:
        file.write_bytes(original)
        tree.stamp(mutant.path)


def main() -> int:
    """Run the command; 1 where a change survives without an explanation."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=tests.mutants.__doc__)
    parser.add_argument("paths", nargs="*", help="files or folders to change (default: all)")
    parser.add_argument("--count", type=int, default=3, help="changes of every file (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of tests for a change (default: %(default)s)")
    parser.add_argument("--tests", nargs="*", help="test files to choose from (default: near the paths, else all)")
    parser.add_argument("--record", type=Path, default=ROOT / "runs" / "mutants.json", help="what tests call, kept")
    parser.add_argument("--only", help="changes of lines that contain this text")
    options = parser.parse_args()
    paths = options.paths or PACKAGES
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the copy goes
    reasons = explanations()
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        record = Record(options.record)
        tree = Copy(Path(folder), preloaded=record.imports or PRELOADED)
        around = [*(near(tree.files, paths) if options.paths else ["tests"]), *paths]
        try:
            for line in record.measure(tree, around if options.tests is None else options.tests):
                print(line, flush=True)
            for name in tree.files:
                if not name.endswith(".py") or not under(name, paths):
                    continue
                every = [m for m in mutants(name, tree.text(name)) if not options.only or options.only in m.text]
                chosen = random.Random(f"{options.seed} {name}").sample(every, min(options.count, len(every)))
                count = counts.setdefault(str(Path(name).parent), Counter())
                for mutant in sorted(chosen, key=lambda m: m.start):
                    reason = reasons.get((name, mutant.text, mutant.change))
                    result = f"explained: {reason}" if reason else judge(tree, record, mutant, options.seconds)
                    word = result.split()[0].rstrip(":")
                    count[word] += 1
                    if word in ("survived", "untested"):
                        result += f" in: {mutant.text}"
                    print(f"{word:<9} {name}:{mutant.line}: {mutant.change[:100]} {result[len(word) :]}", flush=True)
        finally:
            tree.close()
    total: Counter[str] = Counter()
    for package, count in counts.items():
        print(_line(package, count))
        total += count
    print(_line("all", total))
    return 1 if total["survived"] or total["untested"] else 0


def _line(name: str, count: Counter[str]) -> str:
    killed, survived = count["killed"] + count["timeout"], count["survived"] + count["untested"]
    return (
        f"{name}: {killed} killed, {survived} survived, {count['explained']} explained: "
        f"{killed / max(1, killed + survived):.0%} noticed"
    )


if __name__ == "__main__":
    sys.exit(main())
