"""What is read of a run, from which files, and its headline."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import onnx
import pytest

import tvm_schedules
from tests.tvm_schedules.artifact_nets import conv_net
from tests.tvm_schedules.report.documents import BENCH, INSPECTION, bench, training
from tvm_schedules.artifact import store
from tvm_schedules.cli.bench import main as bench_main
from tvm_schedules.cli.report import main
from tvm_schedules.errors import TernError
from tvm_schedules.report.headline import headline, metrics
from tvm_schedules.report.model_explorer import node_data
from tvm_schedules.report.run import Run, read_run, read_runs


def put(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_each_kind_of_json_becomes_its_part_of_a_run(tmp_path: Path) -> None:
    assert read_run(put(tmp_path / "a.json", training())).training == training()
    assert read_run(put(tmp_path / "b.json", BENCH)).benches == [BENCH]
    assert read_run(put(tmp_path / "c.json", {"boards": [BENCH, {"failed": "no", "results": []}]})).benches == [BENCH]
    assert read_run(put(tmp_path / "d.json", json.loads(json.dumps(INSPECTION)))).inspection is not None


def test_a_folder_gives_the_newest_of_each_kind_and_names_the_others(tmp_path: Path) -> None:
    old, new = put(tmp_path / "old.json", bench(5.0)), put(tmp_path / "deeper" / "still" / "new.json", bench(2.0))
    os.utime(old, (1, 1))
    put(tmp_path / "version_0" / "compression.json", training())
    put(tmp_path / "settings.json", {"lr": 0.1})
    put(tmp_path / ".hidden" / "x.json", training(accuracy=0.1))
    run = read_run(tmp_path)
    assert run.name == tmp_path.name
    assert run.benches == [bench(2.0)]
    assert run.training == training()
    assert run.inspection is None
    (note,) = run.notes
    assert str(new.relative_to(tmp_path)) in note
    assert "not old.json" in note


def test_json_within_an_artifact_is_the_artifact_s_own(tmp_path: Path) -> None:
    put(tmp_path / "net" / store.METADATA, {})
    put(tmp_path / "net" / "bench.json", BENCH)
    put(tmp_path / "bench.json", bench(2.0))
    with pytest.raises(TernError, match="net"):  # it is read as an artifact, and this one is damaged
        read_run(tmp_path)


def test_equal_names_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [put(tmp_path / name / "out" / "x.json", training()).parent for name in ("first", "second")]
    assert [run.name for run in read_runs(paths)] == [os.path.join("first", "out"), os.path.join("second", "out")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "is not JSON of tern-bench"),
        ('{"format": "tern-training", "version": 2}', "version 2"),
        ('{"format": "tern-training"}', "version"),
        ('{"boards": 3}', "damaged"),
    ],
)
def test_what_is_nothing_of_that_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(TernError, match=message):
        read_run(tmp_path / "x.json")


def test_nothing_to_show_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TernError, match="does not exist"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(TernError, match="no artifact"):
        read_run(tmp_path)


def test_the_headline_counts_what_a_device_stores() -> None:
    run = Run("a", json.loads(json.dumps(INSPECTION)), [BENCH], training())
    line = headline(run)
    assert line.bytes == 1000 + 70  # not the ONNX file
    assert (line.weight_bytes, line.float32_bytes) == (50, 4 * 96)
    assert line.sparsity == pytest.approx(2 / 3)
    assert line.milliseconds == 1.0
    assert line.faster == {"onnxruntime int8": 3.0, "onnxruntime fp32": 4.0}
    assert line.metric == ("val_acc", pytest.approx(0.9))
    only = headline(Run("b", training=training()))
    assert (only.bytes, only.milliseconds, only.sparsity) == (None, None, pytest.approx(0.2))


def test_budgets_stand_beside_what_was_measured() -> None:
    """Milliseconds and bytes of the artifact's own target, which is the host; others have estimates alone."""
    logged = {"host_ms": (0.9, 1.1), "host_bytes": (1000, 1100), "pi4_ms": (3.0, 3.1), "operations": (5990, 6000)}
    values = {f"budget/{name}": estimate for name, (estimate, _) in logged.items()}
    values |= {f"budget/{name}/limit": limit for name, (_, limit) in logged.items()}
    trained = {**training(), "epochs": [{**training()["epochs"][-1], "values": {**values, "val_acc": 0.9}}]}
    line = headline(Run("a", json.loads(json.dumps(INSPECTION)), [BENCH], trained))
    assert [(one.name, one.estimate, one.limit, one.measured) for one in line.budgets] == [
        ("host_ms", 0.9, 1.1, 1.0), ("host_bytes", 1000, 1100, 1070), ("pi4_ms", 3.0, 3.1, None),
        ("operations", 5990, 6000, None),
    ]  # fmt: skip
    assert metrics(trained) == ["val_acc"]
    assert headline(Run("b", training=training())).budgets == ()


def test_accuracy_comes_before_loss_and_validation_before_training() -> None:
    names = ["train_acc", "val_loss", "val_f1", "ternary/sparsity"]
    epochs = [{"values": dict.fromkeys(names, 1.0)}]
    assert metrics({"epochs": epochs}) == ["val_f1", "train_acc", "val_loss"]


def test_a_damaged_headline_is_an_error_of_ours() -> None:
    with pytest.raises(TernError, match="known of a"):
        headline(Run("a", {"totals": {"all": {}}}))


def test_the_command_prints_a_line_for_each_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = put(tmp_path / "first.json", training()), put(tmp_path / "second.json", bench(2.5))
    assert main([str(first), str(second), "--html", str(tmp_path / "page.html")]) == 0
    printed, aside = capsys.readouterr()
    assert aside == f"page: {tmp_path / 'page.html'}\n"
    assert "val_acc 0.9" in printed
    assert "2.5" in printed
    assert "onnxruntime int8 3.00 x" in printed
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert main(["--json", str(first)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["headline"]["metric"] == ["val_acc", 0.9]
    assert main([str(first), "--html", str(tmp_path)]) != 0


def test_folders_without_anything_are_left_out_beside_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``tern-report logs/*`` where one run is a float one."""
    (tmp_path / "float").mkdir()
    first = put(tmp_path / "first.json", training())
    assert main(["--json", str(tmp_path / "float"), str(first)]) == 0
    printed, aside = capsys.readouterr()
    assert [run["name"] for run in json.loads(printed)] == ["first.json"]
    assert aside.startswith(f"left out: {tmp_path / 'float'} has no artifact")
    for sources in ([tmp_path / "float"] * 2, [tmp_path / "nowhere", first]):
        assert main(["--json", *map(str, sources)]) == 1
        assert capsys.readouterr().err.startswith("error: ")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "net"
    tvm_schedules.build(conv_net(), folder)
    return folder


def test_an_artifact_s_layers_know_their_steps(built: Path) -> None:
    run = read_run(built)
    assert run.inspection is not None
    steps = {step["name"] for step in store.read_metadata(built)["steps"]}
    named = [layer["step"] for layer in run.inspection["layers"]]
    assert named
    assert set(named) <= steps
    assert len(set(named)) == len(named)
    line = headline(run)
    assert line.bytes == sum((built / name).stat().st_size for name in ("model.so", "weights.npz", "metadata.json"))


def test_node_data_names_the_outputs_of_the_onnx_file(built: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert bench_main([str(built), "--quick", "--against", "none", "--json", str(tmp_path / "b.json")]) == 0
    os.symlink(built, tmp_path / "net")
    assert main([str(tmp_path), "--model-explorer", str(tmp_path / "nodes")]) == 0
    graph = onnx.load(built / store.MODEL).graph
    by_output = {node.output[0]: node for node in graph.node}
    zeros = json.loads((tmp_path / "nodes" / "zeros.json").read_text())["results"]
    times = json.loads((tmp_path / "nodes" / "microseconds.json").read_text())
    run = read_run(built)
    assert run.inspection is not None
    wanted = {layer["step"]: layer["sparsity"] for layer in run.inspection["layers"]}
    assert {by_output[name].name: entry["value"] for name, entry in zeros.items()} == wanted
    assert all(by_output[name].op_type in ("Conv", "Gemm", "MatMul") for name in zeros)
    assert zeros.keys() <= times["results"].keys() <= by_output.keys()
    assert [stop["stop"] for stop in times["gradient"]] == [0, 1]


def test_node_data_needs_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(TernError, match="no artifact"):
        node_data(Run("a", training=training()))
    assert main(["a", "b", "--model-explorer", str(tmp_path)]) == 1
