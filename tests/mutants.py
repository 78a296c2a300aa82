"""Do the tests notice? Changes one operator or constant of a source file at a time and runs the file's tests.

``make mutants`` or ``python -m tests.mutants --count 5 --seed 1 tern_lightning/functional``. The working tree stays as
it is: mutants run in a copy. A mutant that survives shows a line that no test depends on, or is no fault at all: those
are in ``EQUIVALENT``, with the reason.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]

TESTS: list[tuple[str, list[str]]] = [
    ("tern_lightning/functional/projection.py", ["tests/methods/test_estimators.py", "tests/pruning/test_slr.py"]),
    ("tern_lightning/functional/[hs]e*.py", ["tests/methods/test_estimators.py"]),
    ("tern_lightning/functional/sherry.py", ["tests/methods/test_estimators.py"]),
    ("tern_lightning/functional/tequila.py", ["tests/methods/test_tequila.py"]),
    ("tern_lightning/functional/tga.py", ["tests/methods/test_tga.py"]),
    ("tern_lightning/functional/ec2t.py", ["tests/methods/test_ec2t.py", "tests/methods/test_entropy.py"]),
    ("tern_lightning/functional/levels.py", ["tests/methods/test_ttq.py"]),
    ("tern_lightning/functional/residual.py", ["tests/methods/test_residual.py"]),
    ("tern_lightning/functional/multilevel.py", ["tests/pruning/test_multilevel.py", "tests/methods/test_residual.py"]),
    ("tern_lightning/functional/patterns.py", ["tests/pruning/test_patterns.py", "tests/pruning/test_digits.py"]),
    ("tern_lightning/functional/penalty.py", ["tests/pruning/test_penalty.py"]),
    ("tern_lightning/functional/slr.py", ["tests/pruning/test_slr.py"]),
    ("tern_lightning/functional/bcgd.py", ["tests/pruning/test_bcgd.py"]),
    ("tern_lightning/functional/lowrank.py", ["tests/pruning/test_lowrank.py"]),
    (
        "tern_lightning/functional/*.py",
        ["tests/training/test_methods.py", "tests/pruning/test_metrics.py", "tests/methods/test_residual.py"],
    ),
    ("tern_lightning/callbacks/phases.py", ["tests/training/test_phases.py", "tests/training/test_callback.py"]),
    (
        "tern_lightning/onnx/*.py",
        [
            "tests/export/test_onnx_writer.py",
            "tests/export/test_onnx_components.py",
            "tests/export/test_onnx_activations.py",
            "tests/export/test_trained_levels.py",
        ],
    ),
    (
        "tvm_schedules/passes/*.py",
        ["tests/tvm/test_networks.py", "tests/tvm/test_few_bits.py", "tests/tvm/test_subsample.py"],
    ),
    (
        "tvm_schedules/lower.py",
        ["tests/tvm/test_networks.py", "tests/tvm/test_kernels.py", "tests/tvm/test_few_bits.py"],
    ),
    ("tvm_schedules/huffman.py", ["tests/tvm/test_huffman.py"]),
    ("tvm_schedules/tensor.py", ["tests/tvm/test_tensor.py"]),
    ("tvm_schedules/schedules/packing.py", ["tests/tvm/test_schedules.py", "tests/tvm/test_foreign_operators.py"]),
]
"""Source files and the tests that are to notice a change, quick ones first; the first pattern that fits counts."""

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "tvm_schedules/huffman.py",
        "found = unpacker.decompress(data, most + 1)",
        "1 -> 2",
    ): "only what is less than one too many matters",
    (
        "tern_lightning/functional/projection.py",
        "_SHIFT, _BINS = 16, 1024",
        "1024 -> 1025",
    ): "the last bin takes what is above the others: the time alone depends on their number",
    (
        "tern_lightning/functional/projection.py",
        "_SHIFT, _BINS = 16, 1024",
        "16 -> 17",
    ): "the time alone depends on the width of the bins",
    (
        "tern_lightning/functional/projection.py",
        "_FEW = 1024",
        "1024 -> 1025",
    ): "both ways give the same level",
}
"""Changes (file, line, text) that no test can notice, and why."""


@dataclass(frozen=True)
class Mutant:
    """One change of a file: the source between two positions (of bytes) is replaced; ``text`` is its line."""

    path: str
    line: int
    text: str
    old: str
    new: str
    start: int
    end: int

    @property
    def change(self) -> str:
        return f"{self.old} -> {self.new}"


_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def _changed(node: ast.AST) -> Iterator[ast.AST]:
    """The changes of one node."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            if type(operator) in _SWAPS:
                other = copy.deepcopy(node)
                other.ops[i] = _SWAPS[type(operator)]()  # type: ignore[call-overload]
                yield other
    elif isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in _SWAPS:
        other = copy.deepcopy(node)
        other.op = _SWAPS[type(node.op)]()  # type: ignore[assignment]
        yield other
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)


def mutants(path: str, source: str) -> list[Mutant]:
    """All changes of a source file, in order; messages, annotations and ``__all__`` are left alone.

    Args:
        path: Relative to the root of the repository.
        source: Its text.
    """
    data, tree = source.encode(), ast.parse(source)
    starts = [0]
    for text in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        notes = [getattr(node, name, None) for name in ("annotation", "returns")]
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert)):
            notes.append(node)
        for note in notes:
            if isinstance(note, ast.AST):
                skipped.update(ast.walk(note))
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.expr) or node in skipped or node.end_lineno is None or node.end_col_offset is None:
            continue
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        old = " ".join(data[start:end].decode().split())
        text = source.splitlines()[node.lineno - 1].strip()
        found += [Mutant(path, node.lineno, text, old, ast.unparse(new), start, end) for new in _changed(node)]
    return sorted(found, key=lambda mutant: (mutant.start, mutant.end, mutant.new))


def tests_of(path: str) -> list[str]:
    """The tests that are to notice a change of a file, examples in its docstrings too; empty where none are listed."""
    return next(([path, *tests] for pattern, tests in TESTS if fnmatch(path, pattern)), [])


def run(tree: Path, mutant: Mutant, timeout: float) -> str:
    """``killed``, ``timeout`` or ``survived``: what the tests say of a mutant in a copy of the repository."""
    file = tree / mutant.path
    original = file.read_bytes()
    try:
        file.write_bytes(original[: mutant.start] + f"({mutant.new})".encode() + original[mutant.end :])
        return "survived" if passes(tree, tests_of(mutant.path), timeout) else "killed"
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        file.write_bytes(original)


def passes(tree: Path, tests: list[str], timeout: float) -> bool:
    """Whether tests pass in a copy of the repository."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "HYPOTHESIS_PROFILE": "usual"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=timeout)
    return done.returncode == 0


def main() -> int:
    """Run the command; 1 where a mutant survives without an explanation."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("paths", nargs="*", default=sorted({pattern for pattern, _ in TESTS}), help="files or folders")
    parser.add_argument("--count", type=int, default=3, help="mutants of every file (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for a mutant's tests")
    options = parser.parse_args()
    chosen = random.Random(options.seed)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    files = [
        name
        for name in tracked
        if name.endswith(".py")
        and tests_of(name)
        and any(fnmatch(name, p) or name == p or name.startswith(p.rstrip("/") + "/") for p in options.paths)
    ]
    counts = {"killed": 0, "timeout": 0, "survived": 0, "equivalent": 0}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in tracked:
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        for name in files:
            if not passes(tree, tests_of(name), options.timeout):
                print(f"{name}: its tests fail without a change", flush=True)
                return 2
            every = mutants(name, (ROOT / name).read_text())
            for mutant in sorted(chosen.sample(every, min(options.count, len(every))), key=lambda m: m.start):
                reason = EQUIVALENT.get((name, mutant.text, mutant.change))
                result = "equivalent" if reason else run(tree, mutant, options.timeout)
                counts[result] += 1
                print(
                    f"{result:<10} {name}:{mutant.line}: {mutant.change[:100]}{f' ({reason})' if reason else ''}",
                    flush=True,
                )
    caught = counts["killed"] + counts["timeout"]
    print(f"{counts}: {caught / max(1, caught + counts['survived']):.0%} of the changes are noticed")
    return 1 if counts["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
