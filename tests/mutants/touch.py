"""A plugin of pytest that writes down which functions of the repository every test calls, or which test failed first.

Compilers run in processes of their own, where ``sitecustomize`` (:data:`CHILD`) calls :func:`trace`; what they call
counts for the whole test file, because such a process may serve several tests.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT, CHILDREN, RESULT = "MUTANTS_ROOT", "MUTANTS_CHILDREN", "MUTANTS_RESULT"
"""Variables of the environment: the copy of the repository, a file that children append to, and the result's."""
CHILD = "import os\nif os.environ.get('MUTANTS_CHILDREN'):\n    from tests.mutants import touch\n    touch.child()\n"
"""What ``sitecustomize.py`` says in the copy, so that every Python process in it is traced."""

touched: set[str] = set()
"""``file:function`` of what was called since the set was emptied."""
_places: dict[str, str] = {}


def _called(frame: FrameType, event: str, argument: Any) -> None:
    code = frame.f_code
    place = _places.get(code.co_filename)
    if place is None:
        root = os.environ.get(ROOT, "") + os.sep
        path = code.co_filename
        place = path[len(root) :] if path.startswith(root) and not path.startswith(root + "tests") else ""
        _places[path] = place
    if place:
        touched.add(f"{place}:{code.co_name}")


def trace() -> None:
    """Write down every call of a function from here on, in all threads."""
    threading.settrace(_called)
    sys.settrace(_called)


def child() -> None:
    """Trace a process that a test has started; what it called is appended to the file when it ends."""

    def write() -> None:
        sys.settrace(None)
        with open(os.environ[CHILDREN], "a") as file:
            file.write("".join(f"{name}\n" for name in sorted(touched)))

    atexit.register(write)
    leave = os._exit

    def left(status: int) -> None:
        write()
        leave(status)

    os._exit = left  # type: ignore[assignment]
    trace()


def _used() -> float:
    """Seconds of the CPU that this process has used, and those that it has waited for."""
    return sum(os.times()[:4])


class Touched:
    """Functions that every test of a run calls, its seconds of the CPU and whether it passed."""

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, Any]] = {}
        self.shared: set[str] = set()
        self.before = _used()
        trace()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Any:
        """What fixtures call may have been for the tests that follow as well."""
        touched.clear()
        self.before = _used()
        result = yield
        self.shared |= touched
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """After each of a test's three parts."""
        test = self.tests.setdefault(report.nodeid, {"seconds": 0.0, "passed": True, "touched": set()})
        now = _used()
        test["seconds"] += now - self.before
        self.before = now
        test["passed"] &= report.passed
        test["touched"] |= touched

    @staticmethod
    def _imports() -> list[str]:
        """What was imported from outside of the repository, in that order."""
        root = os.environ[ROOT] + os.sep
        ours = {name for name, module in sys.modules.items() if str(getattr(module, "__file__", root)).startswith(root)}
        return [
            name for name in sys.modules if name not in ours and name.partition(".")[0] not in ("tests", "__main__")
        ]

    def pytest_sessionfinish(self) -> None:
        """Write the result."""
        sys.settrace(None)
        children = Path(os.environ[CHILDREN])
        found = {
            "tests": {
                name: {"seconds": round(test["seconds"], 3), "touched": sorted(test["touched"])}
                for name, test in self.tests.items()
                if test["passed"]
            },
            "imports": self._imports(),
            "shared": sorted(self.shared | set(children.read_text().split() if children.exists() else ())),
        }
        Path(os.environ[RESULT]).write_text(json.dumps(found))


class Failed:
    """Name of the first test that failed."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """After each of a test's three parts."""
        if report.failed:
            Path(os.environ[RESULT]).write_text(json.dumps(report.nodeid))
