"""The tool for mutants: what it changes, which tests it chooses, and that it tells apart what they notice."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants import __main__, explained
from tests.mutants.changes import Mutant, mutants
from tests.mutants.choose import ROOT, Copy, Record, batches, near

SOURCE = """
def share(a: int = 3, b=2.5) -> float:
    if not a or b >= 4:
        raise ValueError(f"{a + 1} is not allowed")
    return a / b if a is not None else -a


def other():
    return 1


def third(x):
    return x + 2 + 2
"""
TESTS = """
import subprocess, sys
import share

def test_share():
    assert share.share(5, 2) == 2.5

def test_child():
    subprocess.run([sys.executable, "-c", "import share; assert share.other() == 1"], check=True)
"""


def test_changes() -> None:
    found = [(mutant.line, mutant.function, mutant.change) for mutant in mutants("share.py", SOURCE)]
    assert found == [
        (3, "share", "not a -> a"),
        (3, "share", "not a or b >= 4 -> not a and b >= 4"),
        (3, "share", "b >= 4 -> b > 4"),
        (3, "share", "4 -> 5"),
        (5, "share", "a / b -> a * b"),
        (5, "share", "a / b if a is not None else -a -> a / b if not a is not None else -a"),
        (5, "share", "a is not None -> a is None"),
        (5, "share", "-a -> a"),
        (9, "other", "1 -> 2"),
        (13, "third", "x + 2 -> x - 2"),
        (13, "third", "x + 2 + 2 -> x + 2 - 2"),
        (13, "third", "2 -> 3"),
        (13, "third", "2 -> 3 #2"),
    ]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    root = tmp_path_factory.mktemp("repository")
    (root / "share.py").write_text(SOURCE)
    (root / "test_share.py").write_text(TESTS)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    copy = Copy(tmp_path_factory.mktemp("copy"), root, preloaded=())
    yield copy
    copy.close()


@pytest.fixture(scope="module")
def record(tree: Copy, tmp_path_factory: pytest.TempPathFactory) -> Record:
    path = tmp_path_factory.mktemp("record") / "record.json"
    assert list(Record(path).measure(tree, [""])) == ["measured test_share.py: 2 tests, status 0"]
    kept = Record(path)
    assert not list(kept.measure(tree, [""]))
    return kept


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ("a / b -> a * b", "killed by test_share.py::test_share"),
        ("4 -> 5", "survived"),
        ("1 -> 2", "killed by test_share.py::test_child"),
    ],
)
def test_what_tests_notice(tree: Copy, record: Record, change: str, result: str) -> None:
    every = {mutant.change: mutant for mutant in mutants("share.py", SOURCE)}
    assert __main__.judge(tree, record, every[change], 60) == result
    assert tree.text("share.py") == SOURCE


def test_the_limit_is_one_of_cpu_time(tmp_path: Path) -> None:
    (tmp_path / "test_time.py").write_text(
        "import time\ndef test_sleep(): time.sleep(5)\ndef test_work():\n    while True: pass\n"
    )
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "copy").mkdir()
    copy = Copy(tmp_path / "copy", tmp_path, preloaded=())
    try:
        assert copy.run(["test_time.py::test_sleep"], 4)["status"] == 0
        assert copy.run(["test_time.py::test_work"], 4)["status"] == "timeout"
    finally:
        copy.close()


def test_tests_that_call_a_function_come_before_those_whose_processes_do(tree: Copy, record: Record) -> None:
    share = Mutant("share.py", 5, "", "share", "", "", 0, 0)
    assert [test for test, _ in record.tests(share)] == ["test_share.py::test_share"]
    other = Mutant("share.py", 9, "", "other", "", "", 0, 0)
    assert {test for test, _ in record.tests(other)} == {"test_share.py::test_share", "test_share.py::test_child"}
    assert not record.tests(Mutant("nothing.py", 1, "", "", "", "", 0, 0))


def test_what_knows_functions_of_a_file_that_is_gone_is_measured_again(tree: Copy, record: Record) -> None:
    again = Record(record.path)
    again.files["test_share.py"]["shared"].append(len(again.names))
    again.names.append("gone.py:share")
    again.files["test_gone.py"] = {"hash": "", "tests": {}, "shared": []}
    assert list(again.measure(tree, [""])) == ["measured test_share.py: 2 tests, status 0"]
    assert set(again.files) == {"test_share.py"}
    assert not list(again.measure(tree, [""]))


def test_tests_that_are_there_for_a_file() -> None:
    files = [
        "package/one/a.py", "package/one/b.py", "package/two/c.py", "package/one/data.txt", "tests/package/one/nets.py",
        "tests/package/one/test_b.py", "tests/package/one/test_more.py", "tests/package/two/test_a.py",
        "tests/package/two/test_c.py", "tests/package/test_more.py", "tests/package/one/deep/test_d.py",
    ]  # fmt: skip
    own = ["tests/package/one/test_b.py", "tests/package/one/test_more.py"]
    assert near(files, ["package/one/a.py"]) == [*own, "tests/package/two/test_a.py"]
    assert near(files, ["package/one/b.py"]) == own
    assert near(files, ["package"]) == [*own, "tests/package/two/test_a.py", "tests/package/two/test_c.py"]
    assert near(files, ["package/three"]) == []


def test_batches() -> None:
    assert batches([("a", 1.0), ("b", 2.0), ("c", 6.0), ("d", 90.0), ("e", 1.0)], 60.0) == [
        (["a", "b"], 3.0),
        (["c", "e"], 7.0),
    ]


def test_every_explanation_is_about_a_change() -> None:
    for path, text, change in explained.explanations():
        every = {(mutant.text, mutant.change) for mutant in mutants(path, (ROOT / path).read_text())}
        assert (text, change) in every, f"{path}: {change} in {text!r} is no change any more"


def test_an_explanation_without_a_reason_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.py\nx = 1\n1 -> 2\n")
    with pytest.raises(ValueError, match="reason"):
        explained.explanations(tmp_path / "list.txt")
