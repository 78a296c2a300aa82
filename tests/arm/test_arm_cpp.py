"""The server and the runner of ``examples/cpp``, cross-compiled and run on the emulated board: no Python there."""

from __future__ import annotations

import json
import runpy
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tvm_schedules
from tests.arm import board
from tests.tvm_schedules import artifact_nets
from tests.tvm_schedules.processes import Process
from tvm_schedules.artifact import load_samples
from tvm_schedules.bench import Request
from tvm_schedules.bench.boards import bench_boards
from tvm_schedules.bench.plain import RemoteModel
from tvm_schedules.errors import BoardError, CpuFeatureError
from tvm_schedules.remote.client import ConnectionLostError
from tvm_schedules.remote.connection import Address, connect

SOURCE = Path(__file__).resolve().parents[2] / "examples" / "cpp"
COMPILER = "aarch64-linux-gnu-g++"

pytestmark = [
    pytest.mark.arm,
    pytest.mark.skipif(board.missing() is not None, reason=str(board.missing())),
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"needs {COMPILER} (Debian: g++-aarch64-linux-gnu)"),
    pytest.mark.skipif(shutil.which("make") is None, reason="needs make"),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a user copies to the board; the emulated board's wheels spare the download."""
    try:
        site = board.prepare() / "opt" / "site"
    except board.BoardError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("cpp")
    for path in SOURCE.iterdir():
        if path.is_file():
            shutil.copy2(path, folder)
    command = ["make", f"PYTHON={sys.executable}", "ARCH=aarch64", f"SITE={site}", "CXXFLAGS=-O1 -Wall -Werror"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    return folder / "build" / "aarch64" / "bin"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "out"
    tvm_schedules.build(artifact_nets.exact_net(), path, "pi4")
    return path


def emulated(cpu: str, program: Path, *arguments: str | Path) -> list[str]:
    return ["qemu-aarch64", "-L", str(board.root_of(cpu)), "-cpu", cpu, str(program), *map(str, arguments)]


def packed(artifact: Path, folder: Path) -> Path:
    runpy.run_path(str(SOURCE / "pack.py"))["pack"](artifact, folder)
    return folder


def test_runner_gives_the_reference_bit_for_bit(programs: Path, artifact: Path, tmp_path: Path) -> None:
    folder = packed(artifact, tmp_path / "packed")
    command = emulated("cortex-a72", programs / "tern-run", folder, "3", "2")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "output 0: relative difference from onnxruntime 0.0e+00" in done.stdout
    assert "3 runs" in done.stdout
    _, (expected, *_) = load_samples(artifact)
    found = np.fromfile(folder / "output0.bin", np.float32)
    np.testing.assert_array_equal(found, expected[0].reshape(-1))


def test_runner_refuses_what_the_cpu_cannot_run(programs: Path, tmp_path: Path) -> None:
    tvm_schedules.build(artifact_nets.conv_net(), tmp_path / "out", "a76", verify=False)
    folder = packed(tmp_path / "out", tmp_path / "packed")
    command = emulated("cortex-a72", programs / "tern-run", folder)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "does not have: dotprod, fullfp16, lse, rdm; export it for target 'arm'" in done.stderr
    (folder / "constants.bin").write_bytes(b"short")
    command = emulated("cortex-a76", programs / "tern-run", folder)
    assert "is damaged" in subprocess.run(command, capture_output=True, text=True, timeout=120).stderr


def test_server(programs: Path, artifact: Path, tmp_path: Path) -> None:
    with Process(emulated("cortex-a72", programs / "tern-rpc", "--port", "0", "--threads", "2")) as server:
        (found,) = bench_boards(artifact, [Address(server.address, "board")], Request(rounds=2, seconds=0.02))["boards"]
        with connect(server.address) as session:  # the same on the same CPU by Python
            told = session.info
        tvm_schedules.build(artifact_nets.conv_net(), tmp_path / "dot", "a76", verify=False)
        with (
            connect(server.address) as session,
            pytest.raises(CpuFeatureError, match="does not have: dotprod"),
        ):
            RemoteModel(session, tmp_path / "dot")
        with pytest.raises(BoardError, match="with key 'pi4'"):
            connect(server.address, "pi4")
        late = connect(server.address, timeout=0.3)
        time.sleep(0.6)
        with pytest.raises(ConnectionLostError):
            late.condition()
        server.wait_for("session was stopped at its limit")
        text = server.text()
    assert found["failed"] is None
    assert [output["max_abs"] for output in found["verification"]["outputs"]] == [0.0]
    (entry,) = found["results"]
    (row,) = entry["engines"]
    assert row["peak_rss_bytes"] > row["own_rss_bytes"] > 0
    assert len(entry["steps"]) > 5
    assert found["before"]["load"]
    code = "import json; from tvm_schedules.engines import system; print(json.dumps(system.machine()['features']))"
    assert sorted(told["features"]) == sorted(json.loads(board.run(["-c", code], "cortex-a72").stdout))
    assert told["cpu"] == "ARM part 0xd08"
    assert told["architecture"] == "aarch64"
    assert "users of this machine can now run any code here" in text


def test_server_listens_on_loopback_and_lets_in_whom_it_is_told(programs: Path) -> None:
    with Process(emulated("cortex-a72", programs / "tern-rpc", "--port", "0", "--allow", "192.0.2.1")) as server:
        host, port = server.address.split(":")
        assert host == "127.0.0.1"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", int(port)), timeout=5)
        with pytest.raises(BoardError, match="may have refused this address"):
            connect(server.address)
        assert "refused 127.0.0.1: not in --allow" in server.text()
    with Process(emulated("cortex-a72", programs / "tern-rpc", "--port", "0", "--allow", "127.0.0.0/30")) as server:
        connect(server.address).close()
    for wrong in (("--port", "99999"), ("--port", "ssh"), ("--allow", "everyone"), ("--allow", "10.0.0.0/33")):
        command = emulated("cortex-a72", programs / "tern-rpc", *wrong)
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr[:6]) == (2, "usage:"), wrong
