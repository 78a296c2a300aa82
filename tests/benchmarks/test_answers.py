"""The page "Which method?" from results that are written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.methods import answers
from benchmarks.methods.answers import CHANGES, effect, frontier
from benchmarks.methods.recipes import RECIPES
from benchmarks.methods.report import Row, rows_of


def write(folder: Path, name: str, seed: int, accuracy: float, size: int, **values: Any) -> None:
    (folder / f"seed-{seed}").mkdir(parents=True, exist_ok=True)
    run = {"recipe": name, "seed": seed, "accuracy": accuracy, "bytes": size, "adds": 1, "multiplies": 1, **values}
    (folder / f"seed-{seed}" / f"{name}.json").write_text(json.dumps(run))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in (0, 1):
        write(tmp_path, "float", seed, 0.90, 9000)
        write(tmp_path, "float-longer", seed, 0.91, 9000)
        write(tmp_path, "twn-90", seed, 0.88 + 0.01 * seed, 4000, sparsity=0.9, entropy=0.5)
    write(tmp_path, "multilevel-2-90", 1, 0.90, 5500, sparsity=0.9, entropy=0.7)
    write(tmp_path, "twn-90-teacher-0.5", 0, 0.87, 4000, sparsity=0.9, entropy=0.5)
    return tmp_path


def test_changes_are_of_recipes_that_there_are() -> None:
    names = {recipe.name for recipe in RECIPES} | {"float"}
    for change in CHANGES:
        assert {change.name, change.other} <= names
    assert len({(change.name, change.other) for change in CHANGES}) == len(CHANGES)


def test_only_the_seeds_of_both_recipes_are_compared(folder: Path) -> None:
    rows = rows_of(folder, (), "float-longer")
    found = {change.name: effect(change, rows) for change in CHANGES if effect(change, rows) is not None}
    assert set(found) == {"multilevel-2-90", "twn-90-teacher-0.5", "float-longer"}
    terms, teacher, longer = (found[name] for name in ("multilevel-2-90", "twn-90-teacher-0.5", "float-longer"))
    assert terms is not None
    assert terms[1:] == ["+1.00", "one seed says nothing about the order", "+1.5"]  # seed 1: 90 against 89
    assert teacher is not None
    assert teacher[1] == "-1.00"  # seed 0: 87 against 88
    assert longer is not None
    assert longer[1:3] == ["+1.00", "the same difference in all 2 seeds"]


def row(name: str, size: float | None, lost: float, sparsity: float | None = 0.5) -> Row:
    return Row(name, None, 1, 90.0, None, lost, sparsity, 1.0, size, 1.0)


def test_the_frontier() -> None:
    rows = [
        row("large and good", 50, 0.5),
        row("large and bad", 60, 0.7),
        row("small and bad", 10, 3.0),
        row("small and worse", 10, 4.0),
        row("middle", 30, 1.0),
        row("middle, as bad as the smaller one", 40, 1.0),
        row("float", 9, 0.0, None),
        row("unknown size", None, 0.0),
    ]
    assert [one.name for one in frontier(rows)] == ["small and bad", "middle", "large and good"]


def test_page(folder: Path) -> None:
    text = "\n".join(answers.page([folder], (4, 3)))
    assert "for 4 epochs, then goes on for 3 epochs" in text
    assert "| two terms at 90 % zeros | +1.00 | one seed says nothing about the order | +1.5 |" in text
    assert text.count("Not measured yet.") == 7  # six questions, and no band of zeros has two recipes of two seeds
    assert "| twn-90 | 2 | 4.0 | 2.50 | 90.0 |" in text
    assert "- not measured: the best at 95% zeros within 1.2 points of float" in text


def test_later_folders_fill_in_what_the_first_lacks(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other, "float", 0, 0.80, 9000)
    write(other, "float-longer", 0, 0.80, 9000)
    write(other, "twn", 0, 0.75, 4000, sparsity=0.4, entropy=1.5)
    write(other, "multilevel-2", 0, 0.78, 5000, sparsity=0.4, entropy=1.5)
    write(other, "twn-90", 0, 0.10, 4000, sparsity=0.9, entropy=0.5)
    text = "\n".join(answers.page([folder, other], (4, 3)))
    assert "| two terms, zeros as they come* | +3.00 | one seed" in text
    assert "| multilevel-2* | 1 | 5.0 | 2.00 | 40.0 |" in text
    assert "| twn-90 | 2 | 4.0 | 2.50 | 90.0 |" in text, "that of the first folder"


def test_longer_runs_are_held_against_their_own_float_network(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other, "float", 0, 0.90, 9000)
    write(other, "float-longer", 0, 0.93, 9000)
    write(other, "twn-90", 0, 0.925, 4000, sparsity=0.9, entropy=0.5)
    text = "\n".join(answers.page([folder], (4, 3), (other, 12)))
    assert "## What do 12 epochs and a teacher give?" in text
    said = " ".join(text.split())
    assert "it has 93.00 %. The teacher (`+kd`) is the float network that recipes start from, which has 90.00 %" in said
    assert "| twn-90 | 1 | 92.50 | 0.50 | 90.0 | 4.0 |" in text
    assert "- reached: the best at 90% zeros within 0.6 points of float: twn-90 loses 0.50" in text
