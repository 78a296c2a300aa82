"""The server of ``examples/cpp`` on this machine: who is slow, silent, waiting or gone holds up nobody for long."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tvm_schedules
from tests.tvm_schedules import artifact_nets
from tests.tvm_schedules.backends.cpu.test_threads import QUOTAS
from tests.tvm_schedules.processes import Process, children, gone
from tvm_schedules.artifact import load_samples
from tvm_schedules.backends.cpu.quota import cpus as quota_of_cpus
from tvm_schedules.bench.plain import RemoteModel
from tvm_schedules.errors import BoardError
from tvm_schedules.remote import protocol
from tvm_schedules.remote.connection import connect

SOURCE = Path(__file__).resolve().parents[2] / "examples" / "cpp"
HANDSHAKE, BUSY = 2, 1
"""Seconds of both deadlines, which are 5 and 3 where nobody says otherwise."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux"),
    pytest.mark.skipif(shutil.which("g++") is None or shutil.which("make") is None, reason="needs g++ and make"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    for path in SOURCE.iterdir():
        if path.is_file():
            shutil.copy2(path, folder)
    flags = f"-O0 -Wall -Werror -DHANDSHAKE_SECONDS={HANDSHAKE} -DBUSY_SECONDS={BUSY}"
    command = ["make", f"PYTHON={sys.executable}", "STRIP=true", f"CXXFLAGS={flags}", "BIN=bin", "bin/tern-rpc"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder / "bin" / "tern-rpc"


def serve(program: Path, *options: str, **environment: str) -> Process:
    return Process([str(program), "--port", "0", *options], environment)


def connected(server: Process) -> socket.socket:
    return socket.create_connection(protocol.parse_address(server.address), timeout=30)


def greet(server: Process, words: str = "client:board") -> socket.socket:
    """A client that has said everything."""
    client = connected(server)
    client.sendall(struct.pack("<ii", protocol.MAGIC, len(words)) + words.encode())
    return client


def code(client: socket.socket) -> int:
    """The server's answer, 0 where it hangs up without one."""
    answer = client.recv(4, socket.MSG_WAITALL)
    return int(struct.unpack("<i", answer)[0]) if answer else 0


def test_outputs_are_those_of_here(program: Path, tmp_path: Path) -> None:
    tvm_schedules.build(artifact_nets.exact_net(), tmp_path / "out")
    (run, *_), _ = load_samples(tmp_path / "out")
    with serve(program) as server, connect(server.address) as board:
        model = RemoteModel(board, tmp_path / "out")
        np.testing.assert_array_equal(model(*run)[0], tvm_schedules.load(tmp_path / "out")(*run))


def test_silent_and_slow_clients_have_a_deadline_and_hold_up_nobody(program: Path) -> None:
    """One says nothing; one sends a byte now and then, which a limit of the time between bytes never ends."""
    words = struct.pack("<ii", protocol.MAGIC, 1000)
    with serve(program) as server, connected(server) as silent, connected(server) as slow:
        started, sent = time.monotonic(), 0
        with greet(server) as other:
            assert code(other) == protocol.MAGIC
        assert time.monotonic() - started < HANDSHAKE
        slow.settimeout(0.2)
        while time.monotonic() < started + 10 * HANDSHAKE:
            with contextlib.suppress(TimeoutError):
                if slow.recv(1) == b"":
                    break
            sent += slow.send(words[sent : sent + 1] or b" ")
        assert HANDSHAKE - 0.5 < time.monotonic() - started < 5 * HANDSHAKE
        assert sent > 3
        assert code(silent) == 0
        server.wait_for("(?s)did not say who it is in time.*did not say who it is in time")


@pytest.mark.parametrize(
    ("words", "reason", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no client of TVM's RPC", 0),
        (struct.pack("<ii", protocol.MAGIC, -1), "no client of TVM's RPC", 0),
        (struct.pack("<ii", protocol.MAGIC, 10**9), "no client of TVM's RPC", 0),
        (struct.pack("<ii", protocol.MAGIC, 10) + b"client:pi4", "it named another key", protocol.MISMATCH),
    ],
)
def test_who_is_no_client_is_refused(program: Path, words: bytes, reason: str, answer: int) -> None:
    with serve(program) as server:
        with connected(server) as client:
            client.sendall(words)
            with contextlib.suppress(ConnectionResetError):  # it hangs up before it has read everything
                assert code(client) == answer
        server.wait_for(reason)
        with greet(server) as other:
            assert code(other) == protocol.MAGIC


def test_second_client_is_told_that_the_board_is_busy_and_gets_it_when_it_is_free(program: Path) -> None:
    with serve(program) as server:
        with greet(server) as first:
            assert code(first) == protocol.MAGIC
            started = time.monotonic()
            with greet(server) as second:
                assert code(second) == protocol.BUSY
            assert BUSY - 0.5 < time.monotonic() - started < 20
            with pytest.raises(BoardError, match=r"is busy: another session still runs .* try again later"):
                connect(server.address, wait=0.5)
            waiting = greet(server)
        with waiting:
            assert code(waiting) == protocol.MAGIC


@pytest.mark.parametrize(
    ("options", "words", "seconds"),
    [
        (["--limit", "1"], "client:board", 1.0),
        (["--limit", "1"], "client:board -timeout=900", 1.0),
        (["--limit", "900"], "client:board -timeout=0.5", 0.5),
        (["--limit", "1"], "client:board -timeout=nan", 1.0),
        (["--limit", "1"], "client:board -timeout=-1", 1.0),
    ],
)
def test_sessions_end_at_the_lesser_limit(program: Path, options: list[str], words: str, seconds: float) -> None:
    with serve(program, *options) as server, greet(server, words) as client:
        assert code(client) == protocol.MAGIC
        started = time.monotonic()
        while client.recv(4096):  # until the session is gone
            pass
        assert seconds - 0.3 < time.monotonic() - started < seconds + 20
        server.wait_for("session was stopped at its limit")
        with greet(server) as other:
            assert code(other) == protocol.MAGIC


def test_killed_server_leaves_no_session_and_no_folder(program: Path, tmp_path: Path) -> None:
    with serve(program, TMPDIR=str(tmp_path)) as server:
        with greet(server) as client:
            assert code(client) == protocol.MAGIC
            (own,) = server.children()
            finish = time.monotonic() + 20
            while not children(own) and time.monotonic() < finish:
                time.sleep(0.01)
            (session,) = children(own)
            assert [path.name[:9] for path in tmp_path.iterdir()] == ["tern-rpc-"]
            server.process.kill()
            server.process.wait()
            assert gone(own)
            assert gone(session)
        assert not os.listdir(tmp_path)


def test_threads_are_those_that_were_asked_for(program: Path) -> None:
    cpus = len(os.sched_getaffinity(0))
    quota = quota_of_cpus() or cpus
    for options, environment, expected in (
        ([], {}, min(cpus, quota)),
        (["--threads", "7"], {}, 7),
        ([], {"TVM_NUM_THREADS": "3"}, 3),
        ([], {"TVM_NUM_THREADS": "many"}, min(cpus, quota)),
    ):
        with serve(program, *options, **{"TVM_NUM_THREADS": "", **environment}) as server:
            assert f" {expected} threads" in server.text()
            with connect(server.address) as board:
                assert board.info["threads"] == expected
    for wrong in ("0", "129", "1x", "-1"):
        done = subprocess.run([program, "--threads", wrong], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr[:6]) == (2, "usage:")


def test_quotas_of_control_groups(tmp_path: Path) -> None:
    (tmp_path / "main.cc").write_text(
        '#include "board.h"\nint main() { printf("%d", board::quota("groups", "root")); }\n'
    )
    command = ["g++", "-std=c++17", "-Wall", "-Werror", f"-I{SOURCE}", "main.cc", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = {}
    for name, (files, _) in QUOTAS.items():
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        (tmp_path / name).mkdir(exist_ok=True)
        found[name] = int(subprocess.run([tmp_path / "main"], cwd=tmp_path / name, capture_output=True).stdout) or None
    assert found == {name: expected for name, (_, expected) in QUOTAS.items()}
