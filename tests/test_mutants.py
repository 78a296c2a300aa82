"""The driver of mutants: what it changes, and that it tells apart what tests notice."""

from fnmatch import fnmatch
from pathlib import Path

from tests import mutants

ROOT = Path(__file__).parents[1]

SOURCE = """
def share(a: int = 3, b=2.5) -> float:
    if not a or b >= 4:
        raise ValueError(f"{a + 1} is not allowed")
    return a / b if a is not None else -a
"""


def test_changes():
    found = [(mutant.line, mutant.change) for mutant in mutants.mutants("share.py", SOURCE)]
    assert found == [
        (2, "3 -> 4"),
        (2, "2.5 -> 3.5"),
        (3, "not a -> a"),
        (3, "not a or b >= 4 -> not a and b >= 4"),
        (3, "b >= 4 -> b > 4"),
        (3, "4 -> 5"),
        (5, "a / b -> a * b"),
        (5, "a / b if a is not None else -a -> a / b if not a is not None else -a"),
        (5, "a is not None -> a is None"),
        (5, "-a -> a"),
    ]


def test_what_tests_notice(tmp_path, monkeypatch):
    (tmp_path / "share.py").write_text(SOURCE)
    (tmp_path / "test_share.py").write_text("from share import share\n\ndef test():\n    assert share(5, 2) == 2.5\n")
    monkeypatch.setattr(mutants, "TESTS", [("share.py", ["test_share.py"])])
    every = {mutant.change: mutant for mutant in mutants.mutants("share.py", SOURCE)}
    assert mutants.passes(tmp_path, ["test_share.py"], 60)
    assert mutants.run(tmp_path, every["a / b -> a * b"], 60) == "killed"
    assert mutants.run(tmp_path, every["3 -> 4"], 60) == "survived"
    assert (tmp_path / "share.py").read_text() == SOURCE


def test_every_line_of_the_list_is_about_something():
    files = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    for pattern, tests in mutants.TESTS:
        assert any(fnmatch(name, pattern) for name in files), pattern
        assert all((ROOT / test).is_file() for test in tests), tests
    for path, text, change in mutants.EQUIVALENT:
        every = {(mutant.text, mutant.change) for mutant in mutants.mutants(path, (ROOT / path).read_text())}
        assert (text, change) in every, f"{path}: {change} in {text!r} is no change any more"
