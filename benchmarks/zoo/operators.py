"""Which of ONNX' operators are compiled: ``python -m benchmarks.zoo.operators --output benchmarks/zoo/operators.json``.

Every operator is asked for by ONNX' own tests of it, one after the other, until one is compiled for this machine and
agrees with onnxruntime. The documentation lists what was found, beside the operators that this repository's tests
compare over odd shapes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.zoo.node_tests import cases, in_memory, judge
from tvm_schedules.common.files import write_file

TRIES = 6
"""Tests of an operator that are asked before it counts as refused."""
ACCEPTED = ("passed", "constant")


def tests_of() -> dict[str, list[str]]:
    """Names of ONNX' tests by the operator that they are about, of standard operators."""
    import onnx

    found: dict[str, list[str]] = {}
    for name, case in cases().items():
        operator = case.model.graph.node[0].op_type
        if "_expanded" not in name and onnx.defs.has(operator):  # those are about the operators of a function
            found.setdefault(operator, []).append(name)
    return dict(sorted(found.items()))


def verdict(name: str) -> tuple[str, str]:
    """What comes of one of ONNX' tests on this machine, and why."""
    return judge(cases()[name], in_memory)


def ask(say: Callable[[str], Any] = print) -> dict[str, dict[str, str]]:
    """``accepted``: a test that passes, by operator; ``refused``: one that is refused, where none of them passes."""
    accepted, refused = {}, {}
    for operator, names in tests_of().items():
        found: dict[str, str] = {}
        for name in names[:TRIES]:
            found[name] = verdict(name)[0]
            if found[name] in ACCEPTED:
                break
        good = [name for name, one in found.items() if one in ACCEPTED]
        bad = [name for name, one in found.items() if one == "refused"]
        if good:
            accepted[operator] = good[0]
        elif bad:
            refused[operator] = bad[0]
        say(f"{operator}: {'compiled' if good else 'refused' if bad else 'not asked'}")
    return {"accepted": accepted, "refused": refused}


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask for every operator and write what was found."""
    import onnx

    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo.operators", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="where it is written, as JSON")
    options = parser.parse_args(arguments)
    data = {"onnx": onnx.__version__, **ask(lambda text: print(text, flush=True))}
    write_file(options.output, (json.dumps(data, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
