"""What documents say of files: links lead somewhere, promises have their tests, pages are those of the measurements."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import pages

ROOT = Path(__file__).parents[1]
MADE = {".venv", ".git", "runs", "_build", "generated"}
DOCUMENTS = sorted(path for path in ROOT.rglob("*.md") if not MADE & set(path.parts))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_promises_have_tests() -> None:
    rows = [line for line in (ROOT / "docs" / "guarantees.md").read_text().splitlines() if line.startswith("| ")]
    promises = [line for line in rows if "`tests/" in line]
    assert len(promises) == len(rows) - 1 > 10  # one is the head
    for row in promises:
        path = None
        for name in re.findall(r"`((?:tests/\S*|)(?:::\w+)?)`", row.split("|")[2]):
            file, _, function = name.partition("::")
            path = ROOT / file if file else path
            assert path is not None, row
            assert path.is_file(), name
            assert not function or re.search(rf"^def {function}\(", path.read_text(), re.MULTILINE), name


def test_pages_are_those_of_the_measurements() -> None:
    assert pages.main(["--check"]) == 0


def test_pages_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    made = {tmp_path / path.name: text for path, text in pages.pages().items()}
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "pages", lambda: made)
    assert pages.main(["--check"]) == 1
    assert "out of date: cpu.md" in capsys.readouterr().out
    assert not (tmp_path / "cpu.md").exists()
    assert pages.main([]) == 0
    assert pages.main(["--check"]) == 0


def test_best_engines_of_the_page_are_the_baselines() -> None:
    """The first column is the smallest ratio among all engines, read independently of the page's code."""
    for key in ("zen4", "zen5"):
        data = json.loads((ROOT / "benchmarks" / f"baseline-{key}.json").read_text())
        text = pages.cpu({key: data})
        for entry in data["entries"].values():
            for row in entry["ratios"].values():
                least = min(row["peers"].items(), key=lambda item: item[1]["ratio"])
                assert f"{least[1]['ratio']:.2f} ({least[1]['of_min']:.2f}) {least[0]}" in text


def test_make_names_its_commands() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    for command in ("make demo", "make test"):
        assert command in done.stdout
        assert command in first
