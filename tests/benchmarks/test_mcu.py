"""Instructions of networks as C on emulated microcontrollers: exact numbers, so that a budget is a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mcu import cmsis_nn, count, networks, page, profile, report
from benchmarks.mcu.__main__ import main
from tests.tvm_schedules.nets import Net
from tvm_schedules.estimate import table as tables
from tvm_schedules.estimate.estimate import estimate
from tvm_schedules.estimate.targets import device

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
def test_layers_are_counted_one_by_one(linear: Path) -> None:
    whole, apart = count.count(linear, "m4"), count.count(linear, "m4", layers=True)
    assert whole.layers == ()
    assert f"#define MODEL_LAYERS {len(apart.layers)}\n" in (linear / "model.h").read_text()
    assert 0 <= apart.instructions - sum(apart.layers) < 100
    assert 0 <= apart.instructions - whole.instructions < 20 * len(apart.layers)


@needs_tools
@pytest.mark.parametrize("core", ["m4", "m55"])
def test_a_profile_table_holds_what_was_counted(core: str, linear: Path, tmp_path: Path) -> None:
    """And the package's own table estimates a layer that it does not have within a quarter."""
    path = tmp_path / "table.json"
    assert profile.main([core, "--only", "rows1", "--output", str(path)]) == 0
    table = tables.read(path)
    assert (table.target, table.unit) == (f"cortex-{core}", "instructions")
    assert table.libraries[0].code > 1000
    (said,) = estimate(networks.build("linear", 0.8, False, tmp_path)[0], [f"cortex-{core}"])
    assert said.seconds is not None
    assert said.seconds / device(f"cortex-{core}").seconds == pytest.approx(
        count.count(linear, core).instructions, rel=0.25
    )


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


def rows_of(*cores: str, instructions: int, what: str = "linear") -> list[dict[str, Any]]:
    row = {"what": what, "zeros": 0.8, "depthwise": False, "options": "-O3", "instructions": instructions}
    return [{**row, "core": core, "flash": 100_000, "arena": 1000, "stack": 30, "live": 900} for core in cores]


def test_later_counts_take_the_place_of_earlier_ones() -> None:
    file = {"when": "1", "tools": {"a": "1"}, "commands": ["x"], "cmsis_nn": {"linear": {"m4": 5}}}
    old = {**file, "rows": rows_of("m4", "m7", instructions=7)}
    new = {
        **file,
        "when": "2",
        "commands": ["y"],
        "cmsis_nn": {"linear": {"m7": 6}},
        "rows": rows_of("m7", instructions=8),
    }
    made = report.merged(old, new)
    assert [(row["core"], row["instructions"]) for row in made["rows"]] == [("m4", 7), ("m7", 8)]
    assert (made["when"], made["commands"]) == ("2", ["x", "y"])
    assert made["cmsis_nn"] == {"linear": {"m4": 5, "m7": 6}}


def test_page_tells_every_miss_without_rounding() -> None:
    """One instruction decides; bytes too."""
    aim = 96_000  # of 160 thousand on a Cortex-M4
    file = {"when": "2026-01-01", "tools": {}, "commands": ["count"], "cmsis_nn": {}}
    for instructions, said in ((aim, "1 of 1 are reached"), (aim + 1, "1 more than the aim")):
        text = "\n".join(page.mcu({**file, "rows": rows_of("m4", instructions=instructions)}))
        assert said in text
        assert f"| 0.600 | 0.600 | {'reached' if instructions == aim else 'missed'} |" in text
    text = "\n".join(page.mcu({**file, "rows": rows_of("m4", instructions=1, what="autoencoder")}))
    assert "4 of 4 are reached" in text
    assert "dense weights" not in text
    (row,) = rows_of("m4", instructions=1, what="autoencoder")
    text = "\n".join(page.mcu({**file, "rows": [{**row, "flash": 206_620}]})).replace("\n", " ")
    assert "3 of 4 are reached" in text
    assert "103,620 more than the aim" in text
    assert "everything else takes 42,780 bytes" in text


def test_changes_and_ratios() -> None:
    row = {"what": "linear", "core": "m4", "zeros": 0.8, "depthwise": False, "options": "-O3"}
    row |= {"instructions": 320_000, "flash": 10, "arena": 20, "stack": 30}
    assert report.ratio(row, report.reference()) == pytest.approx(2.0)
    assert report.ratio({**row, "core": "m3"}, report.reference()) is None
    assert not report.changes([row], [{**row, "instructions": 321_000}])[1]
    assert report.changes([row], [{**row, "instructions": 323_000}])[1]
    assert not report.changes([{**row, "zeros": 0.5}], [row])[1]


def test_layers_that_cmsis_nn_runs() -> None:
    """Multiplications of the networks as MLPerf Tiny's paper and models have them; a single layer's shape."""
    macs = {}
    for what in networks.NETWORKS:
        macs[what] = sum(
            one.out_h
            * one.out_w
            * one.out_c
            * one.kernel_h
            * one.kernel_w
            * (one.in_c if one.kind != "DEPTHWISE" else 1)
            for one in cmsis_nn.layers_of(what)
            if one.kind in ("CONVOLUTION", "DEPTHWISE", "LINEAR")
        )
    assert macs["resnet8"] == pytest.approx(12.5e6, rel=0.01)
    assert macs["ds-cnn"] == pytest.approx(2.66e6, rel=0.01)
    assert macs["mobilenet"] == pytest.approx(7.49e6, rel=0.01)
    assert macs["autoencoder"] == macs["autoencoder-ternary"] == 264_192
    kinds = [one.kind for one in cmsis_nn.layers_of("resnet8")]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"CONVOLUTION": 9, "ADD": 3, "AVERAGE": 1, "LINEAR": 1}
    (conv,) = cmsis_nn.layers_of("conv3x3")
    assert (conv.in_h, conv.in_w, conv.in_c, conv.out_c, conv.pad_h) == (16, 16, 64, 64, 1)
    assert "{CONVOLUTION, 16, 16, 64, 16, 16, 64, 3, 3, 1, 1, 1, 1}" in cmsis_nn.header([conv])


def test_counted_figures_take_the_place_of_recorded_ones(tmp_path: Path) -> None:
    known, found = report.reference(), report.reference({"linear": {"m4": 7, "m3": 8}})
    assert found["thousands"]["linear"] == {**known["thousands"]["linear"], "m4": 7, "m3": 8}
    assert found["thousands"]["resnet8"] == known["thousands"]["resnet8"]
    assert cmsis_nn.cores(["m4", "rv32imc"]) == ["m4"]
    with pytest.raises(count.McuError, match="must be a checkout of CMSIS-NN"):
        cmsis_nn.counted(["linear"], ["m4"], tmp_path)


def test_bytes_that_are_needed_at_the_same_time() -> None:
    """By hand: two tensors of 8 channels and one input; a sum lies where it was added."""
    net = Net((1, 4, 6, 6))
    x = net.quantize("input_0", 0.02, 128)
    x = net.quantize(net.op("Conv", x, net.weight((8, 4, 3, 3), 0.5), pads=[1] * 4))
    y = net.quantize(net.op("Relu", net.op("Conv", x, net.weight((8, 8, 3, 3), 0.5), pads=[1] * 4)))
    z = net.op("Add", net.op("Conv", y, net.weight((8, 8, 3, 3), 0.5), pads=[1] * 4), x)
    z = net.op("Flatten", net.op("GlobalAveragePool", net.quantize(net.op("Relu", z))))
    assert networks.live_bytes(net.model(net.op("Gemm", z, net.weight((3, 8), 0.5), transB=1))) == 2 * 8 * 36


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["vgg"], "WHAT must be of"), (["--cores", "m5"], "--cores must be of"), (["--zeros", "100"], "percentages")],
)
def test_wrong_arguments_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
