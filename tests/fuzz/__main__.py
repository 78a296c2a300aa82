"""``make fuzz``: damaged inputs for everything that reads files and messages; only documented errors may come out.

A failure names its case; ``python -m tests.fuzz --reader NAME --case NUMBER`` repeats it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz import readers, report_readers, run, training_readers  # noqa: F401 - they fill the list
from tests.fuzz.registry import CASES

SHARE = 240.0
"""Seconds of a CPU that all readers together may take in an ordinary run, which needs about a quarter of it."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status is 1 when a reader failed."""
    parser = argparse.ArgumentParser(prog="make fuzz, or python -m tests.fuzz", description=__doc__)
    add = parser.add_argument
    add("--reader", action="append", metavar="NAME", help=f"only this one, repeatable: {', '.join(CASES)}")
    add("--seed", type=int, default=0, help="of all cases (default: 0)")
    add("--times", type=float, default=1.0, metavar="N", help="N times as many cases as usual (default: 1)")
    add("--case", type=int, help="only this one, with its input and traceback")
    options = parser.parse_args(arguments)
    try:
        names = run.names(options.reader, list(CASES))
    except ValueError as error:
        parser.error(str(error))
    started, failed = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="tern-fuzz-") as folder:

        def fuzz(name: str) -> run.Report:
            if options.case is not None:
                return run.fuzz(name, Path(folder), options.case, options.case + 1, options.seed, show=True)
            count, seconds = max(1, round(CASES[name] * options.times)), SHARE / len(CASES) * options.times
            return run.fuzz(name, Path(folder), 0, count, options.seed, seconds)

        with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
            for report in pool.map(fuzz, names):
                run.tell(report)
                failed += len(report.failures)
    print(f"{failed} failures in {time.monotonic() - started:.0f} s, seed {options.seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
