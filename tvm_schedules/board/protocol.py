"""What TVM's RPC says on the wire before its own loop takes over, and to a tracker; standard library only.

As in ``tvm.rpc.base``, which cannot be used here without loading the rest of ``tvm.rpc``: a connection opens with a
magic number and a key, little-endian 32-bit lengths, and the tracker speaks JSON behind such lengths.
"""

from __future__ import annotations

import json
import random
import socket
import struct
from typing import Any

from tvm_schedules.errors import BoardError

MAGIC = 0xFF271
TRACKER_MAGIC = 0x2F271
MISMATCH = MAGIC + 2
MAX_KEY = 4096
_SUCCESS, _PUT, _UPDATE_INFO, _PENDING = 0, 3, 5, 7  # codes of the tracker
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
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise BoardError(f"an address must be HOST:PORT with a port from 1 to 65535, got {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def keep_alive(connection: socket.socket) -> None:
    """Notice within half a minute that the other machine is gone, without its saying so."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes.

    Raises:
        OSError: The other side closed the connection before, or was silent for longer than the socket's timeout.
    """
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise OSError("the other side closed the connection")
        data += part
    return data


def _receive_number(connection: socket.socket) -> int:
    return int(struct.unpack("<i", receive(connection, 4))[0])


def handshake(connection: socket.socket, expected: str, own: str) -> dict[str, str] | None:
    """Answer a client that opens a session.

    Args:
        connection: An accepted connection.
        expected: The key that the client has to name (with a tracker the one that it hands out).
        own: The server's key.

    Returns:
        The client's options, for example ``{"timeout": "10"}``; None for a client that named another key, or that does
        not speak this protocol.

    Raises:
        OSError: The connection broke.
    """
    if _receive_number(connection) != MAGIC:
        return None
    length = _receive_number(connection)
    if not 0 <= length <= MAX_KEY:
        return None
    words = receive(connection, length).decode(errors="replace").split()
    if not words or words[0] != f"client:{expected}":
        connection.sendall(struct.pack("<i", MISMATCH))
        return None
    answer = f"server:{own}".encode()
    connection.sendall(struct.pack("<ii", MAGIC, len(answer)) + answer)
    return dict(word[1:].split("=", 1) for word in words[1:] if word.startswith("-") and "=" in word)


class Tracker:
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
        self._socket = socket.create_connection(address, timeout=10)
        try:
            self._socket.sendall(struct.pack("<i", TRACKER_MAGIC))
            if _receive_number(self._socket) != TRACKER_MAGIC:
                raise OSError("what answers there is not a TVM RPC tracker")
            self._ask([_UPDATE_INFO, {"key": f"server:{key}", "addr": [None, port]}])
        except BaseException:
            self._socket.close()
            raise

    def _ask(self, message: list[Any]) -> Any:
        data = json.dumps(message).encode()
        self._socket.sendall(struct.pack("<i", len(data)) + data)
        return json.loads(receive(self._socket, _receive_number(self._socket)))

    def offer(self) -> None:
        """Say that the server is free, under a new key for one session, which is ``match`` from now on."""
        self.match = f"{self.key}:{random.random()}"
        if self._ask([_PUT, self.key, [self.port, self.match], None]) != _SUCCESS:
            raise OSError("the tracker refused the server")

    def offered(self) -> bool:
        """Whether the offer still waits; False when a client got it."""
        return self.match in self._ask([_PENDING])

    def close(self) -> None:
        """End the entry."""
        self._socket.close()
