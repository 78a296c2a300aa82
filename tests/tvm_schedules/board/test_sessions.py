"""Clients and boards that are slow, silent, frozen or busy: nobody waits for ever for them, or because of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.tvm_schedules.processes import Process
from tvm_schedules import compat
from tvm_schedules.board import server
from tvm_schedules.errors import BoardError
from tvm_schedules.remote import protocol
from tvm_schedules.remote.client import ConnectionLostError
from tvm_schedules.remote.connection import connect, request


def serve(*options: str) -> Process:
    return Process([sys.executable, "-m", "tvm_schedules.cli.board", "serve", "--port=0", "--threads=1", *options])


@pytest.fixture(scope="module")
def running() -> Iterator[Process]:
    with serve() as process:
        yield process


def greet(address: str | tuple[str, int], words: str) -> socket.socket:
    """A client that has said everything."""
    place = protocol.parse_address(address) if isinstance(address, str) else address
    client = socket.create_connection(place, timeout=10)
    client.sendall(struct.pack("<ii", protocol.MAGIC, len(words)) + words.encode())
    return client


def code(client: socket.socket) -> int:
    return int(struct.unpack("<i", client.recv(4, socket.MSG_WAITALL))[0])


@pytest.mark.parametrize("limit", ["nan", "-nan", "-1", "1e300", "inf", "-inf", "1e-400", "0x10", "", "²"])
def test_no_limit_that_a_client_names_ends_the_server(limit: str, running: Process) -> None:
    with greet(running.address, f"client:board -timeout={limit}") as client:
        assert code(client) == protocol.MAGIC
    with connect(running.address) as board:
        assert board.info["threads"] == 1


def test_slow_clients_hold_up_nobody_and_have_a_deadline(running: Process) -> None:
    """Each sends a byte in every half second, which a limit of the time between bytes never ends."""
    place = protocol.parse_address(running.address)
    slow = [socket.create_connection(place) for _ in range(2 * server.MOST_CONNECTIONS)]
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        for client in slow:
            stack.enter_context(client)
        with connect(running.address) as board:
            assert board.info["cores"] >= 1
        assert time.monotonic() - started < server.HANDSHAKE_SECONDS
        last, sent = slow[-1], 0
        last.settimeout(0.5)
        while time.monotonic() < started + 3 * server.HANDSHAKE_SECONDS:
            with contextlib.suppress(TimeoutError):
                if last.recv(1) == b"":
                    break
            with contextlib.suppress(OSError):
                sent += last.send(struct.pack("<i", protocol.MAGIC)[sent : sent + 1] or b"\x01")
        assert server.HANDSHAKE_SECONDS - 1 < time.monotonic() - started < 2 * server.HANDSHAKE_SECONDS


def test_who_does_not_speak_the_protocol_is_dropped(running: Process) -> None:
    for words in (
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<ii", protocol.MAGIC, -1),
        struct.pack("<ii", protocol.MAGIC, 10**9),
    ):
        with socket.create_connection(protocol.parse_address(running.address), timeout=5) as client:
            client.sendall(words)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(4) == b""


def test_second_client_is_told_that_the_board_is_busy(running: Process) -> None:
    said: list[str] = []
    with connect(running.address):
        started = time.monotonic()
        with pytest.raises(BoardError, match="is busy: another session still runs after 1 s; try again later"):
            connect(running.address, wait=1, say=said.append)
        assert time.monotonic() - started < 30
    assert "is busy, waiting at most" in "".join(said) or server.BUSY_SECONDS > 1


def test_waiting_client_gets_the_board_when_it_is_free(running: Process) -> None:
    first = connect(running.address)
    threading.Timer(0.5, first.close).start()
    started = time.monotonic()
    with connect(running.address) as second:
        assert time.monotonic() - started > 0.4
        assert second.info["threads"] == 1


def test_frozen_session_is_given_up(running: Process) -> None:
    board = connect(running.address, patience=1)
    (session,) = running.children()
    os.kill(session, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(ConnectionLostError, match=r"nothing for 1 s: it is frozen, .* larger --timeout"):
            board.condition()
        assert 0.9 < time.monotonic() - started < 20
    finally:
        os.kill(session, signal.SIGKILL)
    board.close()


@pytest.mark.parametrize("words", [b"", b"\x71", b"\x71\xf2\x0f\x00"])
def test_silent_board_is_given_up(words: bytes) -> None:
    """Something accepts connections and then says nothing, or stops in the middle of its greeting."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held: list[socket.socket] = []

        def accept() -> None:
            for _ in range(2):
                connection, _ = listening.accept()
                connection.sendall(words)
                held.append(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        started = time.monotonic()
        with pytest.raises(BoardError, match="accepts connections and says nothing for 1 s"):
            connect(f"127.0.0.1:{listening.getsockname()[1]}", patience=1)
        assert 0.9 < time.monotonic() - started < 20
        thread.join(5)
        for connection in held:
            connection.close()


@pytest.mark.parametrize("late", ["before the client is loaded", "before it connects"])
def test_silent_board_is_given_up_however_slow_this_machine_is(late: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client takes seconds to load, and may wait on a busy machine: the limit may be over before it connects."""
    name = "load_rpc" if late == "before the client is loaded" else "connect_rpc"
    own = getattr(compat, name)
    monkeypatch.setattr(compat, name, lambda *arguments: (time.sleep(1.5), own(*arguments))[1])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        started = time.monotonic()
        with pytest.raises(BoardError, match="accepts connections and says nothing for 1 s"):
            connect(f"127.0.0.1:{listening.getsockname()[1]}", patience=1)
        assert time.monotonic() - started < 30


def test_frozen_client_loses_the_board() -> None:
    with serve("--idle=1") as process:
        board = connect(process.address)
        process.wait_for("was stopped: nothing happened for 1 s")
        with connect(process.address) as second:
            assert second.info["threads"] == 1
        with pytest.raises(ConnectionLostError):
            board.condition()


def test_sessions_have_a_limit_without_being_asked() -> None:
    with serve("--limit=1") as process:
        board = connect(process.address)
        process.wait_for("was stopped at its limit of 1 s")
        with pytest.raises(ConnectionLostError):
            board.condition()


# -- trackers ---------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def tracker(*answers: bytes) -> Iterator[tuple[str, int]]:
    """Something that answers each message with the next of these bytes, and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            connection, _ = listening.accept()
            with connection:
                for answer in answers:
                    connection.recv(4096)
                    connection.sendall(answer)
                connection.recv(4096)
                time.sleep(3)

        threading.Thread(target=run, daemon=True).start()
        yield listening.getsockname()[:2]


def framed(value: Any) -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<i", len(data)) + data


HELLO = struct.pack("<i", protocol.TRACKER_MAGIC)


@pytest.mark.parametrize(
    "answer",
    [framed(b"{"), framed(b"[" * 100_000), framed(5), framed([]), framed([0, 5]), struct.pack("<i", -1),
     struct.pack("<i", 2**31 - 1), b""],
)  # fmt: skip
def test_trackers_that_say_something_else(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "TRACKER_PATIENCE", 1.0)
    for ask in (protocol.listed, lambda place: protocol.claim(place, "pi4", 0.5)):
        with tracker(HELLO, answer) as place, pytest.raises(OSError, match=r"tracker|timed out|slow"):
            ask(place)
    if answer not in (framed([]), framed([0, 5])):  # lists of keys, as far as an entry can tell
        with tracker(HELLO, framed(0), answer) as place:
            entry = protocol.Tracker(place, "pi4", 1)
            with contextlib.closing(entry), pytest.raises(OSError, match=r"tracker|timed out|slow"):
                entry.offered()


def test_no_free_board_at_the_tracker() -> None:
    pytest.importorskip("tornado")
    from tvm.rpc import tracker as tvm_tracker

    made = tvm_tracker.Tracker(host="127.0.0.1", port=9500, port_end=9600)
    try:
        where = f"127.0.0.1:{made.port}"
        with serve(f"--tracker={where}", "--key=pi4") as process:
            process.wait_for("listed at the tracker")
            with request(where, "pi4") as board:
                assert board.info["threads"] == 1
                started = time.monotonic()
                with pytest.raises(BoardError, match="no board became free in 1 s; try again later"):
                    request(where, "pi4", wait=1)
                assert time.monotonic() - started < 10
            with request(where, "pi4") as board:
                assert board.info["threads"] == 1
    finally:
        made.terminate()
