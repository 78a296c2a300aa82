"""Opening a session with a board, by its own address or through a tracker, also when the board is busy or silent."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm_schedules import compat
from tvm_schedules.common.near import meant
from tvm_schedules.errors import BoardError
from tvm_schedules.remote.client import Board
from tvm_schedules.remote.protocol import (
    DEFAULT_KEY,
    DEFAULT_PORT,
    PATIENCE,
    WAIT,
    claim,
    keep_alive,
    listed,
    parse_address,
)

__all__ = ["Address", "connect", "request"]

CONNECT_SECONDS = 10.0
BUSY_PAUSE = 1.0


@dataclass(frozen=True)
class Address:
    """Where a board is.

    Attributes:
        host: ``HOST:PORT`` of the board, or of the tracker.
        key: What the board or the tracker is asked for.
        tracker: Whether ``host`` is a tracker.
        patience: Seconds of silence after which the board counts as lost.
        wait: Seconds to wait for a board that is busy.
    """

    host: str
    key: str
    tracker: bool = False
    patience: float = PATIENCE
    wait: float = WAIT

    def connect(self, say: Callable[[str], None] | None = None) -> Board:
        """Open a session; ``say`` is called with a line when the board is busy.

        Raises:
            BoardError: Nobody answers, or the board stays busy.
        """
        opened = request if self.tracker else connect
        return opened(self.host, self.key, patience=self.patience, wait=self.wait, say=say)

    def __str__(self) -> str:
        return f"{self.key}@{self.host}" if self.tracker else self.host


def connect(
    address: str,
    key: str = DEFAULT_KEY,
    timeout: float = 0,
    *,
    patience: float = PATIENCE,
    wait: float = WAIT,
    say: Callable[[str], None] | None = None,
) -> Board:
    """Open a session with a board's server; waits a while for the end of another session there.

    Args:
        address: ``HOST:PORT`` or ``HOST``.
        key: The server's key.
        timeout: Seconds after which the server ends the session; 0 leaves that to the server.
        patience: Seconds of silence, also in the middle of a call, after which the board counts as lost.
        wait: Seconds to wait for a board that is busy.
        say: Called with a line when the board is busy.

    Raises:
        BoardError: Nobody answers there, the board stays busy, or the server has another key.
    """
    host, port = parse_address(address, DEFAULT_PORT)
    _check_times(patience, wait)
    advice = "start the server there with: tern-board serve --host ADDRESS --allow THIS-MACHINE"
    try:
        socket.create_connection((host, port), timeout=min(CONNECT_SECONDS, patience)).close()
    except OSError as error:
        raise BoardError(f"no connection to {host}:{port} ({error.strerror or error}); {advice}") from error
    return Board(*_open(host, port, key, timeout, patience, wait, say), name=f"{host}:{port}")


def request(
    tracker: str,
    key: str,
    timeout: float = 0,
    *,
    patience: float = PATIENCE,
    wait: float = WAIT,
    say: Callable[[str], None] | None = None,
) -> Board:
    """Get a free board from a tracker; waits a while until one is free.

    Args:
        tracker: ``HOST:PORT`` of ``python -m tvm.exec.rpc_tracker``.
        key: Which kind of board.
        timeout: Seconds after which the server ends the session; 0 leaves that to the server.
        patience: Seconds of silence after which the board counts as lost.
        wait: Seconds to wait for a free board.
        say: Called with a line when there is none yet.

    Raises:
        BoardError: Nobody answers there, no board of that key is listed or free, or the board cannot be reached.
    """
    host, port = parse_address(tracker)
    _check_times(patience, wait)
    try:
        known = listed((host, port))
    except OSError as error:
        raise BoardError(
            f"no connection to the tracker {host}:{port} ({error}); start one with: python -m tvm.exec.rpc_tracker "
            "--host ADDRESS --port PORT"
        ) from error
    if key not in known:
        there = f"{', '.join(known) or 'none'}{meant(key, known)}"
        raise BoardError(f"no board with key {key!r} at the tracker {host}:{port}; there are: {there}")
    name = f"{key}@{host}:{port}"
    if say is not None:
        say(f"waiting for a free {key}, at most {wait:g} s")
    try:
        board, board_port, match = claim((host, port), key, max(wait, 1.0))
    except TimeoutError as error:
        raise BoardError(f"{name}: no board became free in {wait:g} s; try again later, or wait longer") from error
    except OSError as error:
        raise BoardError(f"{name}: {error}") from error
    return Board(*_open(board, board_port, match, timeout, patience, 0.0, None), name=name)


def _check_times(patience: float, wait: float) -> None:
    if not 0 < patience < float("inf"):
        raise BoardError(f"the patience with a silent board must be seconds above zero, got {patience}")
    if not 0 <= wait < float("inf"):
        raise BoardError(f"the time to wait for a busy board must be seconds, 0 or more, got {wait}")


def _open(
    host: str, port: int, key: str, timeout: float, patience: float, wait: float, say: Callable[[str], None] | None
) -> tuple[Any, float]:
    """TVM's session and the patience that it has.

    Raises:
        BoardError: The server is silent, stays busy, or has another key.
    """
    compat.load_rpc()
    finish = time.monotonic() + wait
    where = f"{host}:{port}"
    while True:
        before = _sockets()
        silent, done = threading.Event(), threading.Event()

        def give_up(
            before: dict[str, int] = before, silent: threading.Event = silent, done: threading.Event = done
        ) -> None:
            pause = patience
            while not done.wait(
                pause
            ):  # again and again: on a busy machine the connection may come after the first time
                silent.set()
                _each_new(before, lambda connection: connection.shutdown(socket.SHUT_RDWR))
                pause = 0.2

        # TVM's client waits for ever, in a call that lets other threads run: one of them ends its connection.
        threading.Thread(target=give_up, daemon=True).start()
        try:
            session = compat.connect_rpc(host, port, key, timeout)
        except RuntimeError as error:
            text = " ".join(str(error).split())
            if silent.is_set():
                raise BoardError(
                    f"{where} accepts connections and says nothing for {patience:g} s: it serves somebody else, is "
                    "frozen, or something else answers there; try again later"
                ) from error
            if not compat.is_busy(error):
                raise BoardError(
                    f"{where} did not open a session with key {key!r} ({text}); give the server's key by --key and "
                    "look at its output: it may have refused this address"
                ) from error
            left = finish - time.monotonic()
            if left <= 0:
                raise BoardError(
                    f"{where} is busy: another session still runs after {wait:g} s; try again later, or wait longer"
                ) from error
            if say is not None:
                say(f"{where} is busy, waiting at most {left:.0f} s more")
            time.sleep(min(left, BUSY_PAUSE))
        else:
            _each_new(before, lambda connection: _prepare(connection, patience))
            return session, patience
        finally:
            done.set()


def _prepare(connection: socket.socket, patience: float) -> None:
    """Let a connection notice a board that is gone, and one that is frozen."""
    keep_alive(connection)
    limit = struct.pack("ll", int(patience), int(patience % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, limit)


def _sockets() -> dict[str, int]:
    """This process' sockets: the system's name, which is never used twice, and the number of the open file."""
    found = {}
    with contextlib.suppress(OSError):  # not Linux
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the directory's own, which is closed by now
                found[os.readlink(f"/proc/self/fd/{number}")] = int(number)
    return {name: number for name, number in found.items() if name.startswith("socket:")}


def _each_new(before: dict[str, int], action: Callable[[socket.socket], None]) -> None:
    """Do something to the TCP connections that were opened since; TVM does not hand its own out."""
    for name, number in _sockets().items():
        if name not in before:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as shared:
                shared.getpeername()  # others than connections have none
                action(shared)
