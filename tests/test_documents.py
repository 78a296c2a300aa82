"""What documents say of files: links lead somewhere, promises have their tests, pages are those of the measurements."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measured_pages, pages, terminal
from examples.models import ResNet18

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from sitetools import fill  # noqa: E402

MADE = {".venv", ".git", "runs", "build", "_build", "generated"}
DOCUMENTS = sorted(path for path in ROOT.rglob("*.md") if not MADE & set(path.parts))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def anchors(path: Path) -> set[str]:
    """What links can name in a document: its headings, as code hosts and the site spell them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"(?m)^#+ (.+)$", text)
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_headings(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", path.read_text())
    assert [link for link in links if link[1] not in anchors(path.parent / link[0] if link[0] else path)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_addresses_of_other_sites_are_whole(path: Path) -> None:
    """Their form only: ``make docs-links`` asks whether they lead somewhere."""
    found = re.findall(r"\]\((\w+:[^)]*)\)|<(https?:[^>]*)>", path.read_text())
    wrong = [
        one for pair in found for one in pair if one and not re.fullmatch(r"https://[\w.-]+\.[a-z]+(/[^\s<>]*)?", one)
    ]
    assert wrong == []


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


def filled(path: Path) -> str:
    """A page as it is read, without the names of its figures."""
    return re.sub(r"<!--.*?-->", "", path.read_text())


def test_figures_and_tables_are_those_of_measurements_and_code() -> None:
    assert len(fill.documents()) > 8
    assert fill.main(["--check"]) == 0


def test_documents_are_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    page = tmp_path / "page.md"
    page.write_text("It loses <!--=twn.lost-->9<!--/--> points.\n\n<!--=rows-->\n<!--/-->\n")
    monkeypatch.setattr(fill, "ROOT", tmp_path)
    monkeypatch.setattr(fill, "DOCS", tmp_path)
    monkeypatch.setattr(fill, "values", lambda: {"twn": {"lost": "1.06"}, "rows": "| a |\n|---|"})
    assert fill.main(["--check"]) == 1
    assert "out of date: page.md" in capsys.readouterr().out
    assert "-->9<!--" in page.read_text()
    assert fill.main([]) == 0
    assert page.read_text() == (
        "It loses <!--=twn.lost-->1.06<!--/--> points.\n\n<!--=rows-->\n\n| a |\n|---|\n\n<!--/-->\n"
    )
    assert fill.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <!--=twn.gained-->1<!--/-->", "twn.gained.*no attribute"),
        ("a <!--=twm.lost-->1<!--/-->", "twm.*undefined"),
        ("a <!--=twn.(-->1<!--/-->", r"twn\.\("),
        ("of\n<!--=twn.lost-->1<!--/--> points", "must not be the first word of a line"),
    ],
)
def test_names_of_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fill.fill(text, {"twn": {"lost": "1.06"}})


def test_figures_of_guides_are_those_of_the_measurements() -> None:
    """Numbers that guides name, found again in the files that they are from."""
    results = ROOT / "benchmarks" / "methods" / "results"
    short, longer = (
        {row["name"]: row for row in json.loads((results / folder / "summary.json").read_text())["rows"]}
        for folder in ("glyphs-resnet20-s2", "8-epochs/glyphs-resnet20-s2")
    )
    text = filled(ROOT / "docs" / "guides" / "choosing.md")
    assert f"{short['float']['accuracy']:.2f} %" in text
    for name in ("twn", "multilevel-2", "twn-80", "multilevel-2-80", "twn-channel-80", "twn-90"):
        assert f"{short[name]['lost']:.2f}" in text, name
    for name in ("twn", "multilevel-2", "twn-80", "multilevel-2-80"):
        assert f"{short[name]['size'] / 1000:.1f} kB" in " ".join(text.split()), name
    for strength in ("0.15", "0.3", "0.6"):
        row = short[f"ec2t-entropy-{strength}"]
        assert f"| {strength} | {row['sparsity'] * 100:.0f} % | {row['lost']:.2f} |" in text, strength
    for name in ("ec2t-entropy-0.6+kd", "multilevel-2-90+kd"):
        assert f"{longer[name]['lost']:.2f}" in text, name

    text = filled(ROOT / "docs" / "guides" / "not-faster.md")
    baseline = json.loads((ROOT / "benchmarks" / "baseline-zen4.json").read_text())
    ratios = baseline["entries"]["resnet18/1"]["ratios"]
    for ours in ("tern 50%", "tern 80%", "tern 90%", "tern 90% float32"):
        assert f"{ratios[ours]['peers']['OpenVINO int8']['ratio']:.2f} times" in text, ours


def test_figures_of_the_readme_are_those_of_the_measurements() -> None:
    text = (ROOT / "README.md").read_text()
    measured = ROOT / "benchmarks" / "measured"
    ratios = json.loads((ROOT / "benchmarks" / "baseline-zen5.json").read_text())["entries"]["resnet18/1"]["ratios"]
    times = {row["zeros"]: row for row in measured_pages.read("milliseconds")["rows"] if row["case"] == "resnet18"}
    sizes = {
        row["zeros"]: row["file_bytes"]
        for row in json.loads((measured / "verification.json").read_text())["rows"]
        if row["name"] == "resnet18"
    }
    for zeros in (0.5, 0.8, 0.9):
        others = ratios[f"tern {zeros:.0%}"]["peers"]
        row = next(line for line in text.splitlines() if line.startswith(f"| {zeros * 100:.0f} % |"))
        size, ms, *ratio = [cell.strip() for cell in row.strip("|").split("|")][1:]
        assert ms == f"{times[round(100 * zeros)]['ours_ms'][0]:.2f}"
        peers = ("onnxruntime int8", "OpenVINO int8", "ExecuTorch XNNPACK int8")
        assert ratio == [f"{others[peer]['ratio']:.2f}" for peer in peers]
        assert zeros not in sizes or size == f"{sizes[zeros] / 1e6:.2f} MB"
    assert {0.5, 0.8, 0.9} <= set(sizes)
    weights = sum(weight.numel() for weight in ResNet18().parameters())
    assert f"The float32 weights take {4 * weights / 1e6:.1f} MB." in text


def test_the_picture_of_the_demo_has_the_measurements() -> None:
    run = json.loads((ROOT / "benchmarks" / "measured" / "digits.json").read_text())
    text = terminal.PICTURE.read_text()
    assert "font-face" not in text
    for share in run["accuracy"].values():
        assert f"{share:.2%}" in text
    for engine in run["bench"]["results"][0]["engines"]:
        assert f"{engine['file_bytes']:,}" in text
        assert f"{1000 * engine['median_ms']:.1f}" in text
    assert f"{terminal.PICTURE.relative_to(ROOT)}" in (ROOT / "README.md").read_text()


def test_the_sample_of_the_bench_is_what_it_prints() -> None:
    page = terminal.BOARDS.read_text()
    for engine in json.loads((ROOT / "benchmarks/measured/digits.json").read_text())["bench"]["results"][0]["engines"]:
        assert f"{engine['median_ms']:.4g}" in page
    assert terminal.with_bench(page) == page


WRITTEN = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROSE = [path for path in WRITTEN if path.parent.name != "benchmarks" and not MADE & set(path.parts)]
MEASURED = re.compile(r"[0-9][0-9,.]* ?(?:[KM]i?B\b|kB\b|ms\b|us\b|microseconds\b|milliseconds\b|times as\b|points\b)")
SAID = {
    "README.md": {"2.80 MB", "2.03 MB", "1.53 MB", "46.8 MB"},
    "docs/running.md": {"0.1 ms", "1 ms"},
}
"""Figures that stand in prose: those of the README have a test of their own, the others are constants of the code."""


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_figures_in_prose_come_from_measurements(path: Path) -> None:
    """Bytes, times and ratios are filled in from JSON, or are no measurement."""
    prose = re.sub(r"```.*?```|<!--=.*?<!--/-->|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL)
    assert set(MEASURED.findall(prose)) <= SAID.get(path.relative_to(ROOT).as_posix(), set())


def test_pages_of_measurements_say_what_was_measured() -> None:
    """Machine, date and command, and the figures of the files, on every page that is made of them."""
    made = {path.name: text for path, text in pages.pages().items()}
    for name, command in (("digits", "examples.digits"), ("verification", "verify_models"), ("arm", "benchmarks.arm")):
        data = measured_pages.read(name)
        text = made[f"{name}.md"]
        assert command in text
        assert data["when"][:10] in text
        assert f"measured/{name}.json" in text
    found = measured_pages.read("milliseconds")["rows"][0]
    assert " / ".join(f"{ms:.3g}" for ms in found["ours_ms"]) in made["milliseconds.md"]


def test_make_names_its_commands() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    for command in ("make demo", "make test"):
        assert command in done.stdout
        assert command in first
