"""The digits example from data to library, in miniature, and the command line on what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.verify_models import verify
from examples import digits
from examples.training import train
from tern_lightning.cli import export as export_command

ROOT = Path(__file__).parents[2]
TINY = ["--epochs", "2", "--ternary-epochs", "5", "--width", "8", "--quick-bench"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("digits")
    return output, digits.main([*TINY, "--output", str(output)])


def test_parts_are_disjoint_and_complete() -> None:
    data = digits.Digits()
    parts = [data.train.tensors[0].numpy(), data.seen.tensors[0].numpy(), data.held_out[0]]
    assert [len(part) for part in parts] == [1077, 270, 450]
    assert len({image.tobytes() for part in parts for image in part}) == 1797
    assert min(np.bincount(data.held_out[1])) >= 40


def test_results(run: tuple[Path, dict[str, Any]]) -> None:
    output, results = run
    assert json.loads((output / "results.json").read_text())["accuracy"] == results["accuracy"]
    assert results["agreement"] > 0.98
    assert results["accuracy"]["exported"] == pytest.approx(results["accuracy"]["ternary"], abs=0.02)
    assert set(results["exports"]) == {"host", "arm"}
    assert all(export["verification"]["passed"] for export in results["exports"].values())
    sizes = {row["name"]: row["file_bytes"] for row in results["bench"]["results"][0]["engines"]}
    assert sizes["onnxruntime 2-bit file"] < sizes["onnxruntime int8"] < sizes["onnxruntime fp32"]
    for name in ("digits.png", "float.ckpt", "ternary.ckpt", "host/model.so", "arm/model.so", "samples.npz"):
        assert (output / name).stat().st_size > 0


def test_second_call_trains_nothing_and_other_settings_do(
    run: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"width": 4, "seed": 0, "epochs": 1}
    first = train("float", digits.DigitsNet(4), digits.Digits(), 1, tmp_path, settings)
    stamp = first.stat().st_mtime_ns
    assert train("float", digits.DigitsNet(4), digits.Digits(), 1, tmp_path, settings).stat().st_mtime_ns == stamp
    assert "is there already" in capsys.readouterr().out
    assert (
        train("float", digits.DigitsNet(4), digits.Digits(), 1, tmp_path, {**settings, "seed": 1}).stat().st_mtime_ns
        > stamp
    )


def test_a_board_needs_neither_torch_nor_onnx(run: tuple[Path, dict[str, Any]]) -> None:
    """(TVM's own package imports torch where it is installed; here nothing of the list can be imported at all.)"""
    code = (
        "import sys\n"
        "for name in ('torch', 'lightning', 'tern_lightning', 'onnx', 'onnxruntime', 'rich', 'ziglang'):\n"
        "    sys.modules[name] = None\n"
        "import numpy, tvm_schedules\n"
        f"model = tvm_schedules.load({str(run[0] / 'host')!r})\n"
        "assert model(numpy.zeros((1, 1, 8, 8), numpy.float32)).shape == (1, 10)\n"
    )
    environment = {**os.environ, "TVM_USE_RUNTIME_LIB": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr


def test_command_line_exports_the_same_network(
    run: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    monkeypatch.chdir(ROOT)
    source, model = str(run[0] / "ternary.ckpt"), "examples.digits:DigitsNet"
    samples = str(run[0] / "samples.npz")
    command = [source, "--model", model, "--tvm-target", "arm", "--output", str(tmp_path / "arm"), "--samples", samples]
    assert export_command.main(command) == 0
    ours, theirs = (onnx.load(folder / "model.onnx") for folder in (tmp_path / "arm", run[0] / "arm"))
    assert ours.graph.SerializeToString() == theirs.graph.SerializeToString()


def test_random_ternary_resnet20_agrees_with_onnxruntime(tmp_path: Path) -> None:
    found = verify("resnet20", tmp_path / "resnet20", count=20)
    assert found.stages == 20
    assert found.steps <= 1
    assert found.equal >= 19
    assert found.classes >= 4
