"""Whether the two profiles of property tests do what they are for."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

SOURCE = """
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from tests.properties import compilations, examples, more_data

@given(st.integers())
def test_plain(n):
    print("plain", n)

@examples(2)
@given(st.integers(0, 10**9))
def test_own(n):
    print("own", n)

@compilations(3)
@given(st.integers(0, 10**9))
def test_compiled(n):
    print("compiled", n)
    first, *others = more_data([np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4)], fixed=[1])
    for one, kept in [first, *others]:
        assert (one.shape, one.dtype, kept.tolist()) == ((2, 3), np.float32, [0, 1, 2, 3])
        assert abs(one).max() <= 5
    print("inputs", len(others) + 1)
    print("different", len({one.tobytes() for one, _ in [first, *others]}))
"""


def run(folder: Path, **environment: str) -> dict[str, list[str]]:
    (folder / "test_own.py").write_text(SOURCE)
    command = [sys.executable, "-m", "pytest", "-s", "-q", "-p", "tests.conftest", "-c", os.devnull, "test_own.py"]
    usual = {k: v for k, v in os.environ.items() if k not in ("HYPOTHESIS_PROFILE", "EXAMPLES")}
    found = subprocess.run(
        command,
        cwd=folder,
        env={**usual, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    names = ("plain", "own", "compiled", "inputs", "different")
    return {name: re.findall(rf"{name} (-?\d+)", found.stdout) for name in names}


def test_a_search_tries_more_and_other_examples(tmp_path):
    first, again = run(tmp_path), run(tmp_path)
    assert first == again
    assert (len(first["plain"]), len(first["own"])) == (50, 2)
    search = [run(tmp_path, HYPOTHESIS_PROFILE="search", EXAMPLES="200") for _ in range(2)]
    assert [len(found["plain"]) for found in search] == [200, 200]
    assert [len(found["own"]) for found in search] == [8, 8]
    assert search[0] != search[1]


def test_a_search_tries_what_it_has_compiled_with_many_inputs(tmp_path):
    usual = run(tmp_path)
    assert (len(usual["compiled"]), set(usual["inputs"])) == (3, {"1"})
    search = run(tmp_path, HYPOTHESIS_PROFILE="search", EXAMPLES="4000")
    assert (len(search["compiled"]), set(search["inputs"])) == (200, {"20"})
    assert min(map(int, search["different"])) > 15


def test_no_property_test_has_settings_that_a_search_cannot_raise():
    others = [p for p in (ROOT / "tests").rglob("*.py") if p.name not in ("properties.py", "test_properties.py")]
    own = [
        str(p.relative_to(ROOT)) for p in others if re.search(r"max_examples|derandomize|load_profile", p.read_text())
    ]
    assert own == []
