"""What a source distribution and a wheel hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tern_lightning", "tvm_schedules")
NOT_COPIED = (
    ".git",
    ".venv",
    "runs",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)

BUILD = """
import sys
from setuptools import build_meta

place = sys.argv[1]  # setuptools puts its own there
build_meta.build_sdist(place)
build_meta.build_wheel(place)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """Files of the source distribution and of the wheel, made of a copy of this tree."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 or newer makes the packages")
    place = tmp_path_factory.mktemp("packages")
    shutil.copytree(ROOT, place / "tree", ignore=shutil.ignore_patterns(*NOT_COPIED), symlinks=True)
    command = [sys.executable, "-c", BUILD, str(place)]
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=place / "tree", capture_output=True, text=True, check=False, env=quiet)
    assert done.returncode == 0, done.stderr
    source, wheel = (path for ending in ("*.tar.gz", "*.whl") for path in place.glob(ending))
    with tarfile.open(source) as file:
        sources = {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}
    with zipfile.ZipFile(wheel) as archive:
        return sources, set(archive.namelist())


def tracked() -> set[str]:
    """The files of the project, by git where this tree is a checkout."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = set(done.stdout.splitlines())
    if done.returncode or "pyproject.toml" not in names:
        pytest.skip("this tree is no checkout of git, which knows the project's files")
    return {name for name in names if (ROOT / name).is_file()}


def test_the_source_distribution_is_the_project(built: tuple[set[str], set[str]]) -> None:
    assert not tracked() - built[0]


def test_the_source_distribution_is_complete_without_git(built: tuple[set[str], set[str]]) -> None:
    needed = {"CHANGELOG.md", "CONTRIBUTING.md", "README.md", "LICENSE", "Makefile", "MANIFEST.in", ".ci/run"}
    needed |= {str(path.relative_to(ROOT)) for name in ("tests", "examples") for path in (ROOT / name).rglob("*.py")}
    assert not needed - built[0]
    assert not [name for name in built[0] if name.endswith((".pyc", ".so")) or "__pycache__" in name]


def test_the_wheel_has_both_packages_and_nothing_else(built: tuple[set[str], set[str]]) -> None:
    own = {name for name in tracked() if name.startswith(PACKAGES)}
    assert not own - built[1]
    assert {name.partition("/")[0] for name in built[1] if ".dist-info/" not in name} == {*PACKAGES}
