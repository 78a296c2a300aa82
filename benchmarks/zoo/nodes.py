"""ONNX' own tests of operators, all of them: ``python -m benchmarks.zoo.nodes``.

Each is compiled as it is, and where that is refused with all inputs but the first as constants. What onnxruntime passes
is passed, or refused with the operator's name. Tests run in a process of their own, so that one that crashes is a line
of the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.zoo.node_tests import cases, in_memory, judge
from tvm_schedules.common.files import write_file

LONGEST = 300
"""Tests of a process; TVM keeps memory of what it has compiled."""

GOOD = ("left out", "passed", "constant", "refused")


def serve(names: Sequence[str]) -> None:
    """Judge tests; for each a line with its name before, and one with the verdict after."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    every = cases()
    for name in names:
        print(json.dumps({"begin": name}), file=channel, flush=True)
        verdict, reason = judge(every[name], in_memory)
        print(json.dumps({"end": name, "verdict": verdict, "reason": reason[:400]}), file=channel, flush=True)


def judge_all(names: Sequence[str], say: Any = print) -> dict[str, tuple[str, str]]:
    """Verdicts and reasons by name, ``crashed`` where the process has ended at a test.

    Args:
        names: Of tests.
        say: Called with a line for every verdict that is none of :data:`GOOD`.
    """
    found: dict[str, tuple[str, str]] = {}
    left = list(names)
    while left:
        part = left[:LONGEST]
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.zoo.nodes", "--serve", *part],
                stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
            assert process.stdout is not None
            begun = _read(process.stdout, found)
            status = process.wait()
        if begun is not None:
            found[begun] = ("crashed", f"exit status {status}")
        elif not any(name in found for name in part):
            raise RuntimeError(f"the process that judges ended with status {status} before the first test")
        for name in part:
            if name in found and found[name][0] not in GOOD:
                say(f"{name}: {found[name][0]}: {found[name][1]}")
        left = [name for name in left if name not in found]
    return found


def _read(stream: IO[str], found: dict[str, tuple[str, str]]) -> str | None:
    """Fill in verdicts; returns the test that was begun and not ended."""
    begun = None
    for line in stream:
        row = json.loads(line)
        begun = row.get("begin")
        if "end" in row:
            found[row["end"]] = (row["verdict"], row["reason"])
    return begun


def summary(found: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """``counts`` of verdicts, how many tests of an operator were ``refused``, and all that is ``other``."""
    every = cases()
    refused = Counter(every[name].model.graph.node[0].op_type for name, (one, _) in found.items() if one == "refused")
    other = {name: pair for name, pair in found.items() if pair[0] not in GOOD}
    return {"counts": Counter(one for one, _ in found.values()), "refused": refused, "other": other}


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge tests and print how many got which verdict; 1 when one is wrong, failed or crashed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo.nodes", description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", help="tests, or beginnings of their names (default: all)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="write verdicts and reasons as JSON")
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.names)
        return 0
    names = [name for name in cases() if not options.names or name.startswith(tuple(options.names))]
    found = judge_all(names, lambda text: print(text, flush=True))
    counts = Counter(verdict for verdict, _ in found.values())
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    if options.output is not None:
        write_file(options.output, (json.dumps(summary(found), indent=1) + "\n").encode())
    return 0 if all(verdict in GOOD for verdict, _ in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
