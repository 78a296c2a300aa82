"""``tern-board serve`` on the emulated board, measured from here; times under emulation mean nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import tvm_schedules
from tests.arm import board
from tests.tvm_schedules import artifact_nets
from tests.tvm_schedules.processes import Process
from tvm_schedules.bench.plain import RemoteModel
from tvm_schedules.cli.bench import main
from tvm_schedules.remote.client import ConnectionLostError
from tvm_schedules.remote.connection import connect

pytestmark = [
    pytest.mark.arm,
    pytest.mark.skipif(board.missing() is not None, reason=str(board.missing())),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    try:
        command = board.command(["-m", "tvm_schedules.cli.board", "serve", "--port=0"], "cortex-a72")
    except board.BoardError as error:
        pytest.skip(str(error))
    with Process(command) as process:
        yield process.address


def test_benchmark(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = tvm_schedules.build(artifact_nets.exact_net(), tmp_path / "out", "pi4")
    result = tmp_path / "result.json"
    assert main([str(artifact.path), f"--rpc={address}", "--quick", f"--json={result}"]) == 0
    assert "Cortex-A72, " in capsys.readouterr().out
    (found,) = json.loads(result.read_text())["boards"]
    assert found["failed"] is None
    assert [output["max_abs"] for output in found["verification"]["outputs"]] == [0.0]
    assert found["machine"]["architecture"] == "aarch64"
    assert set(found["machine"]["features"]) == {"neon", "crc"}
    assert found["machine"]["packages"]["onnxruntime"]
    (entry,) = found["results"]
    rows = {row["name"]: row for row in entry["engines"]}
    assert list(rows) == ["tern", "onnxruntime fp32", "onnxruntime int8", "onnxruntime 2-bit file"]
    assert rows["tern"]["relative_error"] == rows["onnxruntime 2-bit file"]["relative_error"] == 0
    assert len(entry["steps"]) == len(artifact.metadata["steps"])
    assert entry["ceiling_gadds"]["u8"] > 0


def test_dot_product_library_is_refused_before_it_is_sent(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = tvm_schedules.build(artifact_nets.conv_net(), tmp_path / "out", "a76", verify=False)
    assert main([str(artifact.path), f"--rpc={address}", "--quick"]) == 1
    text = capsys.readouterr().err
    assert "(Cortex-A72) does not have: dotprod, fullfp16, lse, rdm; export it for target 'arm'" in text


def test_dot_product_library_that_runs_all_the_same_ends_its_session_alone(address: str, tmp_path: Path) -> None:
    """Without the check the CPU raises an illegal instruction: what the artifact names is what it uses."""
    artifact = tvm_schedules.build(artifact_nets.conv_net(zeros=0.1), tmp_path / "out", "a76", verify=False)
    assert any("dot" in step["kernel"] for step in artifact.metadata["steps"])
    with connect(address) as session:
        session.info = {}  # a board that does not tell what its CPU has
        model = RemoteModel(session, artifact.path)
        with pytest.raises(ConnectionLostError, match="may have crashed"):
            model.time(repeat=1)
    with connect(address) as session:
        assert session.info["cpu"] == "Cortex-A72"
