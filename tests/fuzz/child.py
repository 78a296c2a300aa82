"""Runs cases of one reader in a process with bounded memory: ``python -m tests.fuzz.child JSON``."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz import readers, report_readers, training_readers  # noqa: F401 - they fill the list
from tests.fuzz.registry import READERS, Reader


def limit_memory(extra: int) -> None:
    """Let the process take so many more bytes than it has now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmSize"):
            size = int(line.split()[1]) * 1024 + extra
            resource.setrlimit(resource.RLIMIT_AS, (size, size))


def wanted_memory(error: BaseException | None) -> bool:
    """Whether an error comes from memory that was not to be had; Python's parser calls deep nesting so as well."""
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, MemoryError) and not frames[-1].filename.endswith("ast.py"):
            return True
        error = error.__cause__ or error.__context__
    return False


def run_case(reader: Reader, case: Any, folder: Path) -> tuple[str, str]:
    """``read``, ``refused``, or what went wrong, with its traceback."""
    try:
        reader.read(case, folder)
    except reader.errors as error:
        if wanted_memory(error) and not reader.sizes:
            return "too much memory", traceback.format_exc()
        if not str(error).strip():
            return "an error without words", traceback.format_exc()
        return "refused", ""
    except Exception as error:
        return type(error).__name__, traceback.format_exc()
    return "read", ""


def main(job: dict[str, Any]) -> None:
    """Run the cases of a job; what happened goes to its log, a line for a case that went wrong, and one at the end.

    A case that takes longer than the job's ``patience`` ends the process by SIGALRM.
    """
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    reader = READERS[job["reader"]](folder)
    limit_memory(job["memory"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    counts: dict[str, int] = {}
    finish = time.process_time() + job["seconds"]  # so that a busy machine runs the same cases
    current = os.open(job["current"], os.O_RDWR | os.O_CREAT)
    with open(job["log"], "a") as log:
        index = job["first"]
        while index < job["last"] and time.process_time() < finish:
            os.pwrite(current, b"%20d" % index, 0)
            case = reader.make(Random(f"{job['reader']}/{job['seed']}/{index}"), folder)
            signal.setitimer(signal.ITIMER_REAL, job["patience"])
            outcome, text = run_case(reader, case, folder)
            signal.setitimer(signal.ITIMER_REAL, 0)
            counts[outcome] = counts.get(outcome, 0) + 1
            if text:
                print(json.dumps({"case": index, "outcome": outcome, "text": text[-3000:]}), file=log, flush=True)
                if job["show"]:
                    print(repr(case)[:2000], text, sep="\n")
            index += 1
        print(json.dumps({"next": index, "counts": counts}), file=log, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
