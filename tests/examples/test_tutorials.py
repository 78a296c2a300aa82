"""Tutorials run, by themselves and quickly, and are short enough to be read in one sitting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path for path in (ROOT / "examples" / "tutorials").glob("*.py") if path.name != "__init__.py")
COMPILED = ("export_and_inspect", "opencl", "raspberry_pi", "jetson", "cortex_m", "groups", "transformer")
NEEDS = dict.fromkeys(COMPILED, "tvm")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_tutorial(script: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    if script.stem in NEEDS:
        pytest.importorskip(NEEDS[script.stem])
    places = {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", f"examples.tutorials.{script.stem}"],
        cwd=tmp_path,
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ends = (
        *("held-out digits", "bits", "top-1 agreement", "test images"),
        "there is no OpenCL driver: nothing was verified",
    )
    assert any(end in done.stdout for end in ends)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_tutorial_is_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) < 100


def test_there_are_tutorials() -> None:
    assert len(SCRIPTS) >= 16
