"""Which tests come by a function: measured once for every test file, kept on disk, and asked for a change."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.mutants import touch
from tests.mutants.changes import Mutant

ROOT = Path(__file__).parents[2]
PRELOADED = ("numpy", "torch", "lightning", "torchmetrics", "onnx", "onnxscript", "onnxruntime", "tvm", "hypothesis")
"""What the server imports before it forks, where nothing is known of what tests import."""
STAMP = 1_000_000_000
"""Time of change of every file in the copy, so that compiled files stay valid when a change is taken back."""
FILE_SECONDS = 900.0
"""Limit for measuring a test file."""
BATCH = 8.0
"""Seconds of tests that run together; the next batch runs only when the change survives one."""


class Copy:
    """A copy of a repository in which tests run, by a server that has imported what takes long.

    Args:
        folder: Where the copy goes.
        root: The repository.
        preloaded: Modules that the server imports, none of the repository's own.
    """

    def __init__(self, folder: Path, root: Path = ROOT, preloaded: Sequence[str] = PRELOADED) -> None:
        self.folder = folder
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout.split("\n")
        self.files = sorted({name for name in names if name and (root / name).is_file()})
        for name in self.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
            self.stamp(name)
        (folder / "sitecustomize.py").write_text(touch.CHILD)
        paths = {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.server"],
            cwd=folder,
            env={**os.environ, **paths, "HYPOTHESIS_PROFILE": "first", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._send(list(preloaded))

    def _send(self, message: Any) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(message) + "\n")
        self._server.stdin.flush()

    def stamp(self, name: str) -> None:
        """Give a file the time that its compiled form knows."""
        os.utime(self.folder / name, (STAMP, STAMP))

    def run(self, tests: list[str], seconds: float, measure: bool = False) -> dict[str, Any]:
        """Run tests until the first that fails, or all of them and measure; for the answer see :mod:`.server`."""
        assert self._server.stdout is not None
        self._send({"tests": tests, "seconds": seconds, "touch": measure})
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        """End the server."""
        self._server.terminate()
        self._server.communicate()

    def test_files(self, paths: Iterable[str]) -> list[str]:
        """Test files under some paths, and modules with examples in their docstrings."""
        inside = [name for name in self.files if name.endswith(".py") and under(name, paths)]
        return [
            name
            for name in inside
            if Path(name).name.startswith("test_") or (not name.startswith("tests/") and ">>> " in self.text(name))
        ]

    def text(self, name: str) -> str:
        """Text of a file."""
        return (self.folder / name).read_text()


def under(name: str, paths: Iterable[str]) -> bool:
    """Whether a file is one of some paths, or lies in one."""
    return any(path in ("", name) or name.startswith(path.rstrip("/") + "/") for path in paths)


def near(files: Iterable[str], paths: Iterable[str]) -> list[str]:
    """The test files that are there for some files or folders: in the folder of their tests, or called like them.

    Args:
        files: All files of the repository.
        paths: The files or folders.
    """
    files = list(files)
    meant = [Path(name) for name in files if name.endswith(".py") and under(name, paths)]
    folders = {Path("tests") / path.parent for path in meant}
    names = {f"test_{path.name}" for path in meant}
    tests = [Path(name) for name in files if Path(name).name.startswith("test_")]
    return [str(path) for path in tests if path.parent in folders or path.name in names]


class Record:
    """What every test file's tests call, how long they take, and what they import; kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.files: dict[str, Any] = {}
        self.imports: list[str] = []
        if path.exists():
            kept = json.loads(path.read_text())
            self.names, self.files, self.imports = kept["names"], kept["files"], kept["imports"]
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.names)
            self.names.append(name)
        return self._numbers[name]

    def measure(self, tree: Copy, paths: Iterable[str]) -> Iterator[str]:
        """Measure test files that are new, have changed or know functions where no file is any more; tell of each."""
        here = set(tree.files)
        self.files = {name: found for name, found in self.files.items() if name in tree.files}
        for name in tree.test_files(paths):
            code = hashlib.sha256(tree.text(name).encode()).hexdigest()
            if self.files.get(name, {}).get("hash") == code and self._places(name) <= here:
                continue
            answer = tree.run([name], FILE_SECONDS, measure=True)
            found = answer["result"] or {"tests": {}, "shared": [], "imports": []}
            tests = {
                test: [entry["seconds"], [self._number(n) for n in entry["touched"]]]
                for test, entry in found["tests"].items()
            }
            self.files[name] = {"hash": code, "tests": tests, "shared": [self._number(n) for n in found["shared"]]}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.imports = list(dict.fromkeys((*self.imports, *found["imports"])))
            kept = {"names": self.names, "files": self.files, "imports": self.imports}
            self.path.write_text(json.dumps(kept))
            yield f"measured {name}: {len(tests)} tests, status {answer['status']}"

    def _places(self, name: str) -> set[str]:
        """Source files that a test file comes by."""
        known = self.files[name]
        numbers = {*known["shared"]}.union(*(touched for _, touched in known["tests"].values()))
        return {self.names[number].rpartition(":")[0] for number in numbers}

    def tests(self, mutant: Mutant) -> list[tuple[str, float]]:
        """Tests that come by a change and their seconds: first those that call few functions, shared fixtures last."""
        ours = {
            number
            for number, name in enumerate(self.names)
            if name.rpartition(":")[0] == mutant.path and mutant.function in ("", name.rpartition(":")[2])
        }
        found: list[tuple[bool, int, float, str]] = []
        for file in self.files.values():
            shared = not ours.isdisjoint(file["shared"])
            for test, (seconds, touched) in file["tests"].items():
                direct = not ours.isdisjoint(touched)
                if direct or shared:
                    found.append((not direct, len(touched), seconds, test))
        return [(test, seconds) for _, _, seconds, test in sorted(found)]


def batches(tests: list[tuple[str, float]], most: float) -> list[tuple[list[str], float]]:
    """Tests in batches of about :data:`BATCH` seconds, for ``most`` seconds altogether."""
    found: list[tuple[list[str], float]] = []
    total = 0.0
    for test, seconds in tests:
        if total + seconds > most:
            continue
        total += seconds
        if found and found[-1][1] + seconds <= BATCH and len(found[-1][0]) < 60:
            found[-1] = ([*found[-1][0], test], found[-1][1] + seconds)
        else:
            found.append(([test], seconds))
    return found
