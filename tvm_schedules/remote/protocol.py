"""What TVM's RPC says on the wire before its own loop takes over, and to a tracker; standard library only.

As in ``tvm.rpc.base``, which cannot be used here without loading the rest of ``tvm.rpc``: a connection opens with a
magic number and a key, little-endian 32-bit lengths, and the tracker speaks JSON behind such lengths.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

from tvm_schedules.errors import BoardError

MAGIC = 0xFF271
TRACKER_MAGIC = 0x2F271
BUSY, MISMATCH = MAGIC + 1, MAGIC + 2
MAX_KEY = 4096
SESSION_SECONDS = 4 * 3600.0
IDLE_SECONDS = 900.0  # a session that does nothing for so long has a client that is frozen
_SUCCESS, _PUT, _REQUEST, _UPDATE_INFO, _SUMMARY, _PENDING = 0, 3, 4, 5, 6, 7  # codes of the tracker
MAX_ANSWER = 1 << 20
TRACKER_PATIENCE = 10.0
PATIENCE = 120.0
"""Seconds of silence after which a board counts as lost; what a board is asked for takes a few seconds."""

WAIT = 60.0
"""Seconds to wait for a board that is busy."""

DEFAULT_KEY = "board"
DEFAULT_PORT = 9090


def parse_address(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, also ``[IPV6]:PORT``; without the port where there is a default for it.

    Raises:
        BoardError: Not of this form.

    >>> parse_address("pi4.local:9090"), parse_address("[::1]:9090"), parse_address("10.0.0.7", 9090)
    (('pi4.local', 9090), ('::1', 9090), ('10.0.0.7', 9090))
    """
    host, colon, port = text.rpartition(":")
    if default_port is not None and (not colon or text.endswith("]")):
        host, port = text, str(default_port)
    # isdecimal and not isdigit, which also takes what int does not, such as superscripts
    if not host or not port.isdecimal() or not port.isascii() or not 0 < int(port[:9]) < 65536:
        raise BoardError(f"an address must be HOST:PORT with a port from 1 to 65535, got {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def keep_alive(connection: socket.socket) -> None:
    """Notice within half a minute that the other machine is gone, without its saying so."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def receive(connection: socket.socket, size: int, finish: float | None = None) -> bytes:
    """Exactly ``size`` bytes.

    Args:
        connection: The socket to read from.
        size: The number of bytes.
        finish: Time of ``time.monotonic`` by which all of them must be there; None leaves it to the socket's timeout,
            which somebody who sends a byte now and then never meets.

    Raises:
        OSError: The other side closed the connection before, or was too slow.
    """
    data = b""
    while len(data) < size:
        if finish is not None:
            connection.settimeout(max(0.001, finish - time.monotonic()))
        part = connection.recv(size - len(data))
        if not part:
            raise OSError("the other side closed the connection")
        data += part
        if finish is not None and time.monotonic() > finish:
            raise TimeoutError("the other side is too slow")
    return data


def _receive_number(connection: socket.socket, finish: float | None = None) -> int:
    return int(struct.unpack("<i", receive(connection, 4, finish))[0])


class Greeting:
    """What a client says first, in whatever pieces it comes.

    Attributes:
        words: The key that the client names as ``client:KEY``, and its options; None until all of it has come.
    """

    def __init__(self) -> None:
        self._data = b""
        self.words: list[str] | None = None

    @property
    def missing(self) -> int:
        """Bytes that have to come next, no byte of what follows the greeting among them."""
        if len(self._data) < 8:
            return 8 - len(self._data)
        return 8 + int.from_bytes(self._data[4:8], "little", signed=True) - len(self._data)

    def feed(self, data: bytes) -> None:
        """Take the next bytes, at most :attr:`missing`.

        Raises:
            ValueError: The client does not speak this protocol.
        """
        self._data += data
        if len(self._data) >= 8:
            magic, length = struct.unpack("<ii", self._data[:8])
            if magic != MAGIC or not 0 <= length <= MAX_KEY:
                raise ValueError("it is not a client of TVM's RPC")
            if self.missing == 0:
                self.words = self._data[8:].decode(errors="replace").split() or [""]

    def options(self) -> dict[str, str]:
        """The client's options, for example ``{"timeout": "10"}``."""
        words = (self.words or [])[1:]
        return dict(word[1:].split("=", 1) for word in words if word.startswith("-") and "=" in word)


def welcome(connection: socket.socket, own: str) -> None:
    """Tell a client that its session begins; ``own`` is the server's key."""
    answer = f"server:{own}".encode()
    connection.sendall(struct.pack("<ii", MAGIC, len(answer)) + answer)


def refuse(connection: socket.socket, code: int) -> None:
    """Tell a client :data:`MISMATCH` or :data:`BUSY`."""
    connection.sendall(struct.pack("<i", code))


def session_limit(options: Mapping[str, str], most: float) -> float:
    """Seconds after which a session ends: what its client asks for, at most ``most``, and that where it asks for none.

    >>> [session_limit({"timeout": text}, 60.0) for text in ("10", "0", "-1", "nan", "1e300", "soon")]
    [10.0, 60.0, 60.0, 60.0, 60.0, 60.0]
    """
    try:
        asked = float(options.get("timeout", 0))
    except ValueError:
        asked = 0.0
    return min(asked, most) if asked > 0 else most


class _Asking:
    """A connection to a tracker.

    Raises:
        OSError: The tracker cannot be reached, or something else answers there.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=TRACKER_PATIENCE)
        try:
            self._socket.sendall(struct.pack("<i", TRACKER_MAGIC))
            if _receive_number(self._socket, time.monotonic() + TRACKER_PATIENCE) != TRACKER_MAGIC:
                raise OSError("what answers there is not a TVM RPC tracker")
        except BaseException:
            self._socket.close()
            raise

    def ask(self, message: list[Any], seconds: float | None = None) -> Any:
        """The answer's value.

        Raises:
            OSError: None came within ``seconds`` (:data:`TRACKER_PATIENCE` by default), or it is not JSON.
        """
        data, finish = (
            json.dumps(message).encode(),
            time.monotonic() + (TRACKER_PATIENCE if seconds is None else seconds),
        )
        self._socket.sendall(struct.pack("<i", len(data)) + data)
        size = _receive_number(self._socket, finish)
        if not 0 <= size <= MAX_ANSWER:
            raise OSError(f"the tracker's answer has {size} bytes, at most {MAX_ANSWER} are taken")
        try:
            return json.loads(receive(self._socket, size, finish))
        except (ValueError, RecursionError) as error:
            raise OSError(f"the tracker's answer is not JSON: {error!r}") from error

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


class Tracker(_Asking):
    """A server's entry at a tracker, which hands the server out to one client at a time.

    Args:
        address: The tracker's host and port.
        key: What clients ask for.
        port: The server's port; the tracker knows the host from this connection.

    Raises:
        OSError: The tracker cannot be reached, or something else answers there.
    """

    def __init__(self, address: tuple[str, int], key: str, port: int) -> None:
        self.key, self.port = key, port
        self.match = ""
        super().__init__(address)
        try:
            self.ask([_UPDATE_INFO, {"key": f"server:{key}", "addr": [None, port]}])
        except BaseException:
            self.close()
            raise

    def offer(self) -> None:
        """Say that the server is free, under a new key for one session, which is ``match`` from now on."""
        self.match = f"{self.key}:{random.random()}"
        if self.ask([_PUT, self.key, [self.port, self.match], None]) != _SUCCESS:
            raise OSError("the tracker refused the server")

    def offered(self) -> bool:
        """Whether the offer still waits; False when a client got it."""
        waiting = self.ask([_PENDING])
        if not isinstance(waiting, list):
            raise OSError(f"the tracker answers {waiting!r:.60} where a list of keys is expected")
        return self.match in waiting


def listed(address: tuple[str, int]) -> list[str]:
    """The keys of the boards that a tracker knows, free or not.

    Raises:
        OSError: The tracker cannot be reached, or answers something else.
    """
    with contextlib.closing(_Asking(address)) as tracker:
        answer = tracker.ask([_SUMMARY])
    try:
        return sorted({entry["key"].partition(":")[2] for entry in answer[1]["server_info"]})
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise OSError(f"the tracker's summary is none: {error!r}") from error


def claim(address: tuple[str, int], key: str, seconds: float) -> tuple[str, int, str]:
    """Get a free board from a tracker: its host, its port, and the key for one session.

    Raises:
        TimeoutError: None was free within ``seconds``.
        OSError: The tracker cannot be reached, or answers something else.
    """
    with contextlib.closing(_Asking(address)) as tracker:
        answer = tracker.ask([_REQUEST, key, "", 1], seconds)
    try:
        code, (host, port, match) = answer
        if code != _SUCCESS:
            raise OSError(f"the tracker refuses: {answer!r:.200}")
        return str(host), int(port), str(match)
    except (TypeError, ValueError) as error:
        raise OSError(f"the tracker's answer is none: {answer!r:.200}") from error
