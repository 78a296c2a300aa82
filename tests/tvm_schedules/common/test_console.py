"""Names that others have chosen reach a terminal as text, in every table and command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import tern_lightning
from tern_lightning.callbacks import _report as report
from tern_lightning.cli.export import main as export_main
from tern_lightning.cli.report import print_result
from tern_lightning.rules import Decision
from tests.tern_lightning.exporter.export_nets import make_ternary
from tests.tvm_schedules import artifact_nets
from tvm_schedules.bench.suite import show as suite
from tvm_schedules.cli import bench as bench_command
from tvm_schedules.cli.board import _say
from tvm_schedules.cli.inspect import main as inspect_main
from tvm_schedules.common.console import make_console, plain, printable
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.tuner.search import Tuned
from tvm_schedules.tuner.show import show

NAME = "[bold red]a:smile:\x1b[2J\r\u202e"
TOLD = r"[bold red]a:smile:\x1b[2J\r\u202e"


def told(text: str) -> bool:
    """Whether the name is there as it is, and nothing in the text is an order."""
    return TOLD in text and not set("\x1b\r\u202e") & set(text)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What was printed, in one line of each table."""
    monkeypatch.setenv("COLUMNS", "400")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

    def read() -> str:
        out, err = capsys.readouterr()
        return out + err

    return read


def test_printable() -> None:
    assert printable("déjà [b]vu[/b]\nnext") == "déjà [b]vu[/b]\nnext"
    assert printable("\x9b31m\x07\x7f\u2028\ud800\U000e0001") == r"\x9b31m\x07\x7f\u2028\ud800\U000e0001"
    assert plain(NAME).plain == TOLD


def test_consoles(said: Any) -> None:
    with make_console(width=99) as console:
        console.print(NAME)
    assert told(said())
    # Styles of our own still come to a terminal, and orders of others do not.
    styled = make_console(force_terminal=True, color_system="standard")
    with styled.capture() as found:
        styled.print(NAME, style="red")
    assert found.get().startswith("\x1b[31m" + TOLD)


def test_tables_of_callbacks(said: Any) -> None:
    layer = make_ternary(nn.Sequential(nn.Linear(4, 2)))[0]
    report.print_decisions([Decision(NAME, layer, "twn", {"x": NAME}, NAME)], NAME, [])
    text = said()
    assert told(text)
    assert text.count(TOLD) == 4
    ternary = tern_lightning.TernaryTensor.from_values(layer.weight.detach())
    assert ternary is not None
    report.print_summary([report.LayerReport(NAME, ternary, None)], {NAME: NAME}, 10)
    assert told(said())


def test_layers_of_an_export(said: Any, tmp_path: Path) -> None:
    net = make_ternary(nn.Sequential(nn.Linear(4, 4)))
    found = tern_lightning.export(net, tmp_path / "out", samples=torch.randn(4, 4), onnx_only=True)
    renamed = replace(found.network, ternary=dict.fromkeys([NAME], found.network.ternary["0"]), dense=(NAME,))
    print_result(make_console(width=200), replace(found, network=renamed))
    text = said()
    assert told(text)
    assert text.count(TOLD) == 2


def hostile() -> onnx.ModelProto:
    b = artifact_nets.Builder()
    b.op("Gemm", ["x", b.ternary(NAME, [5, 4])], "y", transB=1)
    return b.model({"x": [1, 4]}, {"y": [1, 5]})


def test_commands(said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(hostile(), "net.onnx")
    assert inspect_main(["net.onnx"]) == 0
    assert told(said())
    Path(f"{NAME}.onnx").write_bytes(hostile().SerializeToString())
    assert inspect_main([f"{NAME}.onnx"]) == 0
    assert told(said())
    for command in (inspect_main, lambda words: export_main([*words, "-o", "out"])):
        assert command([f"{NAME}.ckpt"]) == 1
        assert told(said().replace(r"\\", "\\"))
    assert bench_command.main([NAME]) == 1
    assert told(said())
    _say(NAME)
    assert told(said())


def test_tuner_and_benchmarks(said: Any) -> None:
    show(
        make_console(width=300),
        [Tuned(NAME, ScheduleConfig.of(NAME, {"a": 1}), ScheduleConfig.of("k", {}), 1.0, 2.0, False)],
    )
    assert told(said())
    step = {"name": NAME, "op": NAME, "kernel": NAME, "operand": "uint8", "us": 1.0, "share": 1.0}
    step |= dict.fromkeys(("dense_gmacs", "gadds", "ceiling_share"))
    entry = {"threads": 1, "cpus": [0], "rounds": 1, "engines": [], "steps": [step], "ceiling_gadds": None}
    entry["skipped"] = [{"name": NAME, "reason": NAME}]
    result = {"results": [entry], "rounds": 1, "skipped": [], "board": NAME, "failed": NAME, "verification": None}
    bench_command._print([result], None)
    assert told(said())
    change = suite.Change(NAME, NAME, NAME, 1.0, 2.0, 0.1)
    make_console(width=200).print(suite.comparison([change], True)[0])
    assert told(said())
