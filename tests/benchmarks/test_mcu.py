"""Instructions of networks as C on emulated microcontrollers: exact numbers, so that a budget is a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.mcu import count, networks, report
from benchmarks.mcu.__main__ import main

needs_tools = pytest.mark.skipif(count.missing() is not None, reason=str(count.missing()))


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mcu")
    model, samples = networks.build("linear", 0.8, False, folder)
    count.prepare(model, samples, folder / "linear", verify=True)
    return folder / "linear"


@needs_tools
def test_counts_are_exact_and_made_of_functions(linear: Path) -> None:
    first, second = (count.count(linear, "m4") for _ in range(2))
    assert first == second
    assert first.instructions == sum(first.functions.values())
    weights = (linear / "model.c").stat().st_size
    assert 0 < first.stack < 4096 < first.flash < weights + 640 * 128
    # At least an addition for each of about 640 * 128 / 5 weights that are not zero.
    assert first.instructions > 640 * 128 / 5
    assert first.instructions < count.count(linear, "m4", ("-O0",)).instructions


@needs_tools
def test_wrong_numbers_and_unaligned_access_are_noticed(linear: Path, tmp_path: Path) -> None:
    for file in linear.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "model.c"
    whole = path.read_text()
    path.write_text(whole.replace("return -1;\n    tern_run(", "return -1;\n    if (0) tern_run("))
    with pytest.raises(count.McuError, match="differ"):
        count.count(tmp_path, "m4")
    trap = "volatile uintptr_t odd = (uintptr_t)arena + 1; *(volatile uint32_t *)odd = 0; tern_run("
    path.write_text(whole.replace("\n    tern_run(", f"\n    {trap}"))
    count.count(tmp_path, "m3")
    with pytest.raises(count.McuError, match="fault"):
        count.count(tmp_path, "m0+")


@needs_tools
def test_command_writes_what_it_compares_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "counts.json"
    arguments = ["linear", "--cores", "m4", "--options=-O2"]
    assert main([*arguments, "--json", str(path)]) == 0
    data = json.loads(path.read_text())
    (row,) = data["rows"]
    assert (row["what"], row["core"], row["zeros"]) == ("linear", "m4", 0.8)
    row["instructions"] //= 2
    path.write_text(json.dumps(data))
    assert main([*arguments, "--compare", str(path)]) == 1
    assert f"since {path}" in capsys.readouterr().out


def test_changes_and_ratios() -> None:
    row = {"what": "linear", "core": "m4", "zeros": 0.8, "depthwise": False, "options": "-O3"}
    row |= {"instructions": 320_000, "flash": 10, "arena": 20, "stack": 30}
    assert report.ratio(row, report.reference()) == pytest.approx(2.0)
    assert report.ratio({**row, "core": "m3"}, report.reference()) is None
    assert not report.changes([row], [{**row, "instructions": 321_000}])[1]
    assert report.changes([row], [{**row, "instructions": 323_000}])[1]
    assert not report.changes([{**row, "zeros": 0.5}], [row])[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["vgg"], "WHAT must be of"), (["--cores", "m5"], "--cores must be of"), (["--zeros", "100"], "percentages")],
)
def test_wrong_arguments_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
