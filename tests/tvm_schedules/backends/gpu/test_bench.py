"""``tern-bench`` of an artifact for a graphics processor, here and on a board: OpenCL through PoCL."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

import tvm_schedules
from tests.tvm_schedules.artifact_nets import conv_net
from tests.tvm_schedules.backends.gpu.runners import need_opencl
from tests.tvm_schedules.processes import Process
from tvm_schedules.cli.bench import main
from tvm_schedules.errors import DeviceError


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_opencl()
    return tvm_schedules.build(conv_net(), tmp_path_factory.mktemp("gpu") / "out", "opencl").path


def test_benchmark_here(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [f"--{kind}={tmp_path / f'bench.{kind}'}" for kind in ("json", "csv")]
    plot = ["--plot", str(tmp_path / "bench.svg")]
    assert main([str(artifact), "--quick", *files, *plot]) == 0
    device = tvm_schedules.load(artifact).device.name  # type: ignore[attr-defined]
    assert f"tern on {device}" in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "bench.json").read_text())["results"]
    rows = {row["name"]: row for row in entry["engines"]}
    assert list(rows) == ["tern", "onnxruntime fp32", "onnxruntime int8", "onnxruntime 2-bit file"]
    assert rows["tern"]["relative_error"] < 1e-4
    assert (rows["tern"]["device"], rows["onnxruntime fp32"]["device"]) == (device, None)
    assert rows["tern"]["file_bytes"] == sum(
        (artifact / name).stat().st_size for name in ("kernels.cl", "weights.npz", "metadata.json")
    )
    assert all(step["us"] > 0 for step in entry["steps"])
    assert sum(step["us"] for step in entry["steps"]) < 20e3 * rows["tern"]["median_ms"]
    assert next(csv.DictReader((tmp_path / "bench.csv").open()))["device"] == device


def test_benchmark_on_a_board(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verified there first; a board without the driver says what it lacks."""
    command = [sys.executable, "-m", "tvm_schedules.cli.board", "serve", "--port=0"]
    with Process(command) as board:
        assert main([str(artifact), "--quick", "--against=none", f"--rpc={board.address}"]) == 0
    text = capsys.readouterr().out
    assert "verified there: y, 8 runs" in text
    assert "tern on " in text
    with Process(command, {"TERN_OPENCL_DEVICE": "99"}) as board:
        assert main([str(artifact), "--quick", "--against=none", f"--rpc={board.address}"]) == 1
    assert "TERN_OPENCL_DEVICE must be the number of a device" in capsys.readouterr().err


def test_device_is_a_number(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERN_OPENCL_DEVICE", "gpu")
    with pytest.raises(DeviceError, match=r"the number of a device \(0: .*\), got 'gpu'"):
        tvm_schedules.load(artifact)
