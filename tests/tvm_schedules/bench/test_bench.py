from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvm_schedules
from tests.tvm_schedules import artifact_nets
from tvm_schedules.backends.cpu import probe as ceiling
from tvm_schedules.bench import Request, bench, measure, peers, report
from tvm_schedules.cli.bench import main
from tvm_schedules.engines import system
from tvm_schedules.engines.process import Worker
from tvm_schedules.errors import BenchError, TernError
from tvm_schedules.targets import registry as targets


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "out"
    tvm_schedules.build(artifact_nets.conv_net(), path)
    return path


@pytest.fixture(scope="module")
def result(artifact: Path) -> dict[str, Any]:
    return bench(artifact, Request(rounds=2, seconds=0.02))


def test_every_engine_is_measured(result: dict[str, Any]) -> None:
    assert not result["skipped"]
    (entry,) = result["results"]
    assert not entry["skipped"]
    rows = {row["name"]: row for row in entry["engines"]}
    assert list(rows) == ["tern", "onnxruntime fp32", "onnxruntime int8", "onnxruntime 2-bit file"]
    for row in rows.values():
        assert 0 < row["min_ms"] <= row["q25_ms"] <= row["median_ms"] <= row["q75_ms"]
        assert row["peak_rss_bytes"] > row["own_rss_bytes"] >= 0
        assert row["relative_error"] < 0.2
    assert rows["tern"]["ratio"] == 1.0
    assert rows["onnxruntime 2-bit file"]["relative_error"] < 0.02
    assert rows["onnxruntime fp32"]["file_bytes"] > rows["onnxruntime int8"]["file_bytes"]


def test_layers_add_up(result: dict[str, Any]) -> None:
    (entry,) = result["results"]
    steps = entry["steps"]
    assert sum(step["share"] for step in steps) == pytest.approx(1)
    conv = next(step for step in steps if step["op"] == "Conv")
    assert conv["operand"] == "uint8"
    assert conv["gadds"] < conv["dense_gmacs"]  # seven of ten weights are zero
    assert conv["ceiling_share"] == pytest.approx(conv["gadds"] / entry["ceiling_gadds"]["u8"])
    assert min(entry["ceiling_gadds"].values()) > 0  # how much depends on who else uses the machine


def test_more_threads_than_cpus_are_left_out(artifact: Path) -> None:
    made = bench(artifact, Request((), (1, 128), rounds=1, seconds=0.01))
    assert [entry["threads"] for entry in made["results"]] == [1]
    (left_out,) = made["skipped"]
    assert left_out == {"name": "128 threads", "reason": f"CPUs that may be used: {len(system.usable_cpus())}"}
    with pytest.raises(BenchError, match=r"threads must be between 1 and the .* got 128"):
        bench(artifact, Request((), (128,), rounds=1, seconds=0.01))


def test_statistics_by_hand() -> None:
    ours, theirs = [[1000.0, 3000.0, 2000.0], [4000.0] * 3], [[4000.0] * 3, [4000.0, 8000.0, 12000.0]]
    found = measure._statistics(theirs, ours)
    assert found["ratio"] == 2.0  # rounds: 4 / 2 and 8 / 4
    assert found["ratio_of_min"] == 4.0
    assert (found["median_ms"], found["min_ms"], found["runs"]) == (4.0, 4.0, 6)
    assert measure._statistics(ours, ours)["ratio"] == 1.0


def test_int8_peer_is_quantized_everywhere(artifact: Path, tmp_path: Path) -> None:
    engines, refused = peers.onnxruntime_engines(artifact, tmp_path)
    assert not refused
    model = onnx.load(next(engine.path for engine in engines if engine.name == "onnxruntime int8"))
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    assert sorted(len(tensor.dims) for tensor in weights) == [2, 4, 4]
    scales = {tensor.name: tensor for tensor in model.graph.initializer}
    conv = next(tensor for tensor in weights if len(tensor.dims) == 4)
    scale = next(node.input[1] for node in model.graph.node if node.input and node.input[0] == conv.name)
    assert list(scales[scale].dims) == [16]  # per channel


def test_ceiling_counts_what_the_probe_adds(artifact: Path) -> None:
    """The probe's sums say how many additions were made: the same number that the rate is computed from."""
    import tvm

    from tvm_schedules.runtime.buffers import aligned

    width = targets.resolve("host").vector_bytes
    library = tvm.runtime.load_module(str(artifact / "probe.so"))
    x = aligned(ceiling.BLOCK, 0).view(np.float32)
    x[:] = 1
    out = aligned(ceiling.MAX_TASKS * ceiling.ACCUMULATORS * width).view(np.float32)
    counts = aligned(8).view(np.int32)
    counts[:] = 6, 3
    library["probe_f32"](*(tvm.runtime.from_dlpack(array) for array in (x, out, counts)))
    assert out.sum() == 3 * 6 * ceiling.BLOCK // 2 // 4


def test_reports(result: dict[str, Any], tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(report.to_csv([result]))))
    assert [row["name"] for row in rows] == [row["name"] for row in result["results"][0]["engines"]]
    assert float(rows[1]["median_ms"]) == result["results"][0]["engines"][1]["median_ms"]
    pytest.importorskip("matplotlib")
    report.plot([result], str(tmp_path / "bench.svg"))
    assert "onnxruntime int8" in (tmp_path / "bench.svg").read_text() or (tmp_path / "bench.svg").stat().st_size > 5000
    assert result["machine"]["cpu"] in report.machine_line(result)


def test_command_line(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / "deep" / f"bench.{name}" for name in ("json", "csv")}
    options = [f"--{name}={path}" for name, path in files.items()]
    assert main([str(artifact), "--quick", "--against", "none", "--layers", "2", *options]) == 0
    text = capsys.readouterr().out
    assert "tern" in text
    assert "of ceiling" in text
    data = json.loads(files["json"].read_text())
    assert [row["name"] for row in data["results"][0]["engines"]] == ["tern"]
    assert files["csv"].read_text().startswith("board,threads,name,median_ms")
    assert data["results"][0]["energy"].keys() == {"sensor", "reason"}
    assert "energy" in text


def test_energy_has_a_column_where_there_is_a_sensor(result: dict[str, Any]) -> None:
    (entry,) = result["results"]
    metered = {**entry, "energy": {"sensor": "RAPL, 1 package", "reason": None}}
    metered["engines"] = [{**row, "watts": 5.0, "millijoules": 5.0 * row["median_ms"]} for row in entry["engines"]]
    table, line = report.tables({**result, "results": [metered]})[:2]
    assert table.columns[-1].header == "mJ a run"
    assert float(next(iter(table.columns[-1].cells))) == pytest.approx(5 * entry["engines"][0]["median_ms"], rel=0.01)
    assert "RAPL" in line


def test_steps_of_one_program_say_once_what_it_computes(result: dict[str, Any]) -> None:
    (entry,) = result["results"]
    row = {**entry["steps"][0], "kernel": "fallback", "op": "Gather, Add"}
    steps = [{**row, "name": name} for name in ("a/0", "a/1", "b/0")] + [{**row, "name": "b/1", "op": "Add"}] * 2
    *_, table = report.tables({**result, "results": [{**entry, "steps": steps}]})
    assert list(table.columns[1].cells) == ["Gather, Add", '"', "Gather, Add", "Add", "Add"]


def test_bad_input(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cores = len(system.usable_cpus())
    for arguments, message in (
        ({"against": ("abacus",)}, "got 'abacus'; executorch=FILE.* tern-bench --suite .* install openvino"),
        ({"against": ("onnxruntim",)}, r"got 'onnxruntim'; did you mean 'onnxruntime'\?$"),
        ({"threads": (cores + 1,)}, f"between 1 and the {cores} CPUs"),
        ({"threads": (1, 0)}, "threads must be an integer from 1 to 128, got 0"),
        ({"threads": (2.0,)}, r"threads must be an integer from 1 to 128, got 2\.0"),
        ({"threads": ()}, "threads must be one number or several, got none"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
    ):
        with pytest.raises(BenchError, match=message):
            bench(artifact, Request(**arguments))  # type: ignore[arg-type]
    with pytest.raises(TernError, match="is not a directory"):
        bench(tmp_path / "none")
    assert main([str(tmp_path / "none")]) == 1
    assert "error:" in capsys.readouterr().err


def test_limited_clock_is_shouted(result: dict[str, Any]) -> None:
    hot = {**result["after"], "throttled": "80008", "cooling": {"thermal-cpufreq-0": 2}, "clock_mhz": [600.0, 1500.0]}
    line = report.machine_line({**result, "after": hot})
    assert "-> 1500 MHz" in line
    assert "THROTTLED after (80008)" in line
    assert "clock HELD DOWN after by thermal-cpufreq-0" in line
    cool = {**hot, "throttled": "0", "cooling": None}
    assert "not throttled" in report.machine_line({**result, "before": cool, "after": cool})
    silent = {**cool, "throttled": None}
    assert "throttling n/a" in report.machine_line({**result, "before": silent, "after": silent})
    row = next(csv.DictReader(io.StringIO(report.to_csv([{**result, "after": hot}]))))
    assert (row["clock_mhz_after"], row["throttled_after"]) == ("1500.0", "80008; thermal-cpufreq-0 2")


def test_interruption_shows_what_was_measured(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked = Worker.ask, []

    def impatient(worker: Worker, do: str, seconds: float = 0.0) -> dict[str, Any]:
        asked.append(do)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ask(worker, do, seconds)

    monkeypatch.setattr(Worker, "ask", impatient)
    saved = tmp_path / "bench.json"
    assert main([str(artifact), "--quick", "--against=none", f"--json={saved}"]) == 130
    text = capsys.readouterr()
    assert "1 of 3 interleaved rounds" in text.out
    assert "interrupted" in text.err
    assert json.loads(saved.read_text())["results"][0]["rounds"] == 1
