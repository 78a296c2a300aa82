"""Benchmarks over RPC on loopback: our server, TVM's own, a tracker, and everything that can go wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import tvm_schedules
from tests.tvm_schedules import artifact_nets
from tests.tvm_schedules.processes import Process
from tvm_schedules.artifact import load_samples, store
from tvm_schedules.bench import Request, report
from tvm_schedules.bench.boards import bench_boards, verify_on
from tvm_schedules.bench.machines import PythonBoard
from tvm_schedules.bench.plain import PlainBoard, RemoteModel
from tvm_schedules.board import server
from tvm_schedules.cli import bench as bench_command
from tvm_schedules.cli import board as board_command
from tvm_schedules.errors import BoardError, CpuFeatureError, VerificationError
from tvm_schedules.remote import protocol
from tvm_schedules.remote.client import ConnectionLostError
from tvm_schedules.remote.connection import Address, _sockets, connect
from tvm_schedules.targets import host_cpu as cpu

PLAIN_SERVER = """
from tvm.rpc.server import PopenRPCServerState
state = PopenRPCServerState("127.0.0.1", 9300, 9400, key="plain")
print(f"serving at 127.0.0.1:{state.port}", flush=True)
state.thread.join()
"""


def serve(*options: str) -> Process:
    return Process([sys.executable, "-m", "tvm_schedules.cli.board", "serve", "--port=0", *options])


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("boards") / "out"
    tvm_schedules.build(artifact_nets.conv_net(), path)
    return path


@pytest.fixture(scope="module")
def running() -> Iterator[Process]:
    with serve("--threads=1") as process:
        yield process


@pytest.fixture
def address(running: Process) -> str:
    return running.address


def test_outputs_on_the_board_are_those_of_here(artifact: Path, address: str) -> None:
    here = tvm_schedules.load(artifact)
    inputs, _ = load_samples(artifact)
    with connect(address) as board:
        model = RemoteModel(board, artifact)
        for run in inputs:
            np.testing.assert_array_equal(model(*run)[0], here(*run))
        times = model.time(repeat=5)
        one = model.time(0, 1, number=3, repeat=2)
        assert len(times) == 5
        assert 0 < min(one) < max(times)
        with pytest.raises(BoardError, match=r"threads must be between 1 and .* got 0"):
            board.set_threads(model.library, 0)


def test_two_libraries_of_one_name(artifact: Path, address: str, tmp_path: Path) -> None:
    """The loader would take the second for the first, were they of one name on the board."""
    other = tmp_path / "other"
    tvm_schedules.build(artifact_nets.conv_net(channels=8), other)
    with connect(address) as board:
        first, second = RemoteModel(board, artifact), RemoteModel(board, other)
        for model, folder in ((first, artifact), (second, other)):
            (run, *_), _ = load_samples(folder)
            np.testing.assert_array_equal(model(*run)[0], tvm_schedules.load(folder)(*run))


def test_command(artifact: Path, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One board that is there and one that is not: the first one's results, the second one's reason."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    files = {name: tmp_path / f"bench.{name}" for name in ("json", "csv", "png")}
    options = [f"--json={files['json']}", f"--csv={files['csv']}", f"--plot={files['png']}", "--quick", "--layers=2"]
    assert bench_command.main([str(artifact), f"--rpc={nobody}", f"--rpc={address}", *options]) == 1
    text = capsys.readouterr()
    assert "start the server there with: tern-board serve" in text.err
    assert f"board {nobody}, not measured\nboard {address}\n  verified there: y, 8 runs" in text.out
    absent, board = json.loads(files["json"].read_text())["boards"]
    assert (absent["board"], absent["results"]) == (nobody, [])
    assert board["failed"] is None
    assert board["verification"]["passed"]
    assert board["machine"]["cores"] >= 1
    assert board["before"].keys() == board["after"].keys()
    (entry,) = board["results"]
    assert [row["name"] for row in entry["engines"]] == [
        "tern", "onnxruntime fp32", "onnxruntime int8", "onnxruntime 2-bit file",
    ]  # fmt: skip
    assert all(row["peak_rss_bytes"] > row["own_rss_bytes"] > 0 for row in entry["engines"])
    assert sum(step["share"] for step in entry["steps"]) == pytest.approx(1)
    rows = list(csv.DictReader(files["csv"].open()))
    assert {row["board"] for row in rows} == {address}
    assert {row["cpu"] for row in rows} == {board["machine"]["cpu"]}
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def test_plain_rpc_server_of_tvm(artifact: Path) -> None:
    """TVM's own server has none of our functions: measured all the same, and what it cannot tell is None."""
    with Process([sys.executable, "-c", PLAIN_SERVER], {"TVM_USE_RUNTIME_LIB": "1"}) as plain:
        (board,) = bench_boards(artifact, [Address(plain.address, "plain")], Request(rounds=2, seconds=0.02))["boards"]
    assert board["failed"] is None
    assert board["verification"]["passed"]
    assert (board["machine"]["cpu"], board["before"]["governor"]) == (None, None)
    assert "runs no other engines" in board["skipped"][0]["reason"]
    (entry,) = board["results"]
    (row,) = entry["engines"]
    assert 0 < row["min_ms"] <= row["median_ms"]
    assert row["peak_rss_bytes"] is None
    assert row["relative_error"] < 0.02
    assert min(entry["ceiling_gadds"].values()) > 0
    console = Console(width=140, record=True, file=io.StringIO())
    for part in report.parts(board):
        console.print(part)
    assert "CPU n/a" in console.export_text()


def test_wrong_results_are_found_before_anything_is_measured(artifact: Path, address: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(artifact, wrong)
    with np.load(wrong / store.SAMPLES) as file:
        arrays = dict(file)
    np.savez(wrong / store.SAMPLES, **{**arrays, "output0": -arrays["output0"]})
    store.write_metadata(wrong, json.loads((wrong / store.METADATA).read_text()))
    (board,) = bench_boards(wrong, [Address(address, "board")])["boards"]
    assert "does not agree with onnxruntime" in board["failed"]
    assert not board["results"]
    with connect(address) as session:
        for place in (PythonBoard(session), PlainBoard(session)):
            with pytest.raises(VerificationError):
                verify_on(place, "board", wrong)


def test_library_for_another_cpu_is_refused_before_it_is_sent(address: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    name = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu"}' if cpu.architecture() == "aarch64" else "a76"
    tvm_schedules.build(artifact_nets.conv_net(), other, name, verify=False)
    with connect(address) as board:
        for place in (PythonBoard(board), PlainBoard(board)):
            with pytest.raises(CpuFeatureError, match=f"was built for .*{address} .* is "):
                place.outputs(other)


def test_broken_connection_loses_no_result(artifact: Path, running: Process, tmp_path: Path) -> None:
    saved = tmp_path / "result.json"

    def keep(result: dict[str, Any]) -> None:
        saved.write_text(json.dumps(result))
        board = result["boards"][0]
        if own.process.poll() is None and board["results"] and board["results"][0]["rounds"] == 1:
            (session,) = own.children()
            own.process.kill()
            own.process.wait()
            while Path(f"/proc/{session}").exists():  # it ends with the server, but not at once
                time.sleep(0.01)

    with serve() as own:
        boards = [Address(own.address, "board"), Address(running.address, "board")]
        result = bench_boards(artifact, boards, Request([], rounds=3, seconds=0.02), keep=keep)
    broken, other = result["boards"]
    assert "the connection to" in broken["failed"]
    assert "Start tern-board serve again" in broken["failed"]
    assert broken["results"][0]["rounds"] == 1
    assert broken["results"][0]["engines"][0]["median_ms"] > 0
    assert json.loads(saved.read_text()) == result
    assert other["failed"] is None


def test_crash_ends_its_session_alone(address: str, running: Process) -> None:
    board = connect(address)
    (session,) = running.children()
    os.kill(session, signal.SIGILL)  # what a library for another CPU does
    with pytest.raises(ConnectionLostError, match="may have crashed"):
        board.condition()
    with connect(address) as again:
        assert again.info["threads"] == 1
    assert "illegal instruction: the library was built for another CPU" in running.text()


def test_client_notices_a_board_without_power(address: str) -> None:
    """TVM's client would wait for ever: the system asks the board now and then whether it is still there."""
    before = _sockets()
    with connect(address):
        (number,) = (number for name, number in _sockets().items() if name not in before)
        with socket.socket(fileno=os.dup(number)) as shared:
            assert shared.getpeername()[1] == int(address.split(":")[1])
            assert shared.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_session_ends_at_the_clients_limit(address: str, running: Process) -> None:
    board = connect(address, timeout=0.5)
    time.sleep(1)
    with pytest.raises(ConnectionLostError):
        board.condition()
    assert "was stopped at its limit of 0.5 s" in running.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_server_leaves_no_process_and_no_port(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with serve() as process:
        board = connect(process.address)
        (session,) = process.children()
        process.process.send_signal(number)
        process.process.wait(10)
        for _ in range(100):
            if not Path(f"/proc/{session}").exists():
                break
            time.sleep(0.05)
        assert not Path(f"/proc/{session}").exists()
        left = list(tmp_path.glob("tern-board-*"))
        assert not left or number == signal.SIGKILL
        with pytest.raises(BoardError):
            connect(process.address)
    del board


def test_key_has_to_match(address: str) -> None:
    with pytest.raises(BoardError, match="did not open a session with key 'pi4'"):
        connect(address, "pi4")


def test_tracker(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tornado")
    from tvm.rpc import tracker

    made = tracker.Tracker(host="127.0.0.1", port=9400, port_end=9500)
    try:
        where = f"127.0.0.1:{made.port}"
        with serve(f"--tracker={where}", "--key=pi4") as process:
            process.wait_for("listed at the tracker")
            quick = ["--quick", "--against=none", f"--tracker={where}"]
            assert bench_command.main([str(artifact), *quick, "--key=pi4"]) == 0
            assert bench_command.main([str(artifact), *quick, "--key=pi4"]) == 0  # it is listed again
            assert f"board pi4@{where}" in capsys.readouterr().out
            assert bench_command.main([str(artifact), *quick, "--key=jetson"]) == 1
            assert "there are: pi4" in capsys.readouterr().err
    finally:
        made.terminate()


# -- who may connect --------------------------------------------------------------------------------------------------
def test_without_being_asked_it_listens_on_loopback_only(running: Process) -> None:
    assert board_command.parser().parse_args(["serve"]).host == "127.0.0.1"
    host, port = running.address.split(":")
    assert host == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):  # another address of this very machine
        socket.create_connection(("127.0.0.2", int(port)), timeout=5)
    assert "users of this machine can now run any code here" in running.text()
    assert server.is_loopback("::1")
    assert not server.is_loopback("0.0.0.0")


def test_open_server_warns() -> None:
    with serve("--host=0.0.0.0") as process:
        text = process.text()
    assert "EVERY machine that can reach this address can now run any code here" in text
    assert "name the machines that may connect with --allow" in text


def _open_session(address: str, source: str) -> int:
    """The server's answer to a client with this source address; 0 when it just hangs up."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=5, source_address=(source, 0)) as client:
        key = b"client:board"
        client.sendall(struct.pack("<ii", protocol.MAGIC, len(key)) + key)
        try:
            answer = client.recv(4)
        except ConnectionResetError:
            return 0
        return int(struct.unpack("<i", answer)[0]) if answer else 0


def test_allow_list() -> None:
    with serve("--allow=127.0.0.8/30", "--allow=192.0.2.1") as process:
        with pytest.raises(BoardError, match="may have refused this address"):
            connect(process.address)
        assert "refused 127.0.0.1: not in --allow" in process.text()
        assert _open_session(process.address, "127.0.0.7") == 0
        assert _open_session(process.address, "127.0.0.9") == protocol.MAGIC


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host=203.0.113.7"], "cannot listen at 203.0.113.7"),
        (["--allow=everyone"], "allow must be addresses or networks"),
        (["--threads=0"], "threads must be an integer from 1 to 128, got 0"),
        (["--threads=129"], "threads must be an integer from 1 to 128, got 129"),
        (["--key=two words"], "key must be one word"),
        (["--tracker=203.0.113.7:9190"], "would send clients to 127.0.0.1; give --host"),
        (["--tracker=nowhere"], "an address must be HOST:PORT"),
        (["--limit=nan"], "limit must be a number of seconds above zero, got nan"),
        (["--idle=0"], "idle must be a number of seconds above zero, got 0"),
    ],
)
def test_bad_options_of_the_server(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert board_command.main(["serve", "--port=0", *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rpc=pi4:99999"], "an address must be HOST:PORT"),
        (["--rpc=a:1", "--tracker=b:2"], "either --rpc or --tracker"),
        (["--key=pi4"], "--key needs --rpc or --tracker"),
        (["--rpc=a:1", "--key=a", "--key=b"], "give --key once"),
        (["--tracker=a"], "an address must be HOST:PORT"),
        (["--rpc=127.0.0.1:1", "--timeout=nan"], "patience with a silent board must be seconds above zero, got nan"),
        (["--rpc=127.0.0.1:1", "--wait=-1"], "wait for a busy board must be seconds, 0 or more, got -1"),
        (["--rpc=a:1", "--against=abacus"], "against must be one of onnxruntime, got 'abacus'"),
        (["--rpc=a:1", "--threads=0"], "threads must be an integer from 1 to 128, got 0"),
        (["--rpc=a:1", "--plot=bench.foo"], "--plot must end in one of"),
    ],
)
def test_bad_options_of_the_benchmark(
    artifact: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_command.main([str(artifact), *options]) == 1
    assert message in capsys.readouterr().err
