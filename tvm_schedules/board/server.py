"""Accepts clients one after another and gives each a process, so that a library that crashes ends its session alone.

TVM's own server would do for this, but it needs more packages on the board, stops for good when a session crashes,
waits for ever for a client that connects and says nothing, and cannot be told whom to let in.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from tvm_schedules.board import protocol, session
from tvm_schedules.errors import BoardError

HANDSHAKE_SECONDS = 5.0
TRACKER_SECONDS = 2.0  # how often the tracker is asked; as TVM's server does
UNUSED_OFFERS = 4  # that many times the offer was taken and nobody came: make a new one
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def is_loopback(host: str) -> bool:
    """Whether a server that is bound to ``host`` can be reached from this machine alone."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


class Server:
    """A board's RPC server.

    Args:
        host: Address to listen at.
        port: Port, 0 for any that is free.
        key: Clients have to name it; no secret, only a name.
        allow: Addresses or networks (``10.0.0.0/24``) that may connect; empty for all that can reach ``host``.
        tracker: Host and port of a tracker to be listed at.
        say: Called with a line of text for every event.

    Attributes:
        address: Host and port that the server listens at.

    Raises:
        BoardError: The address cannot be used, or ``allow`` has an entry that is no address.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = protocol.DEFAULT_PORT,
        key: str = protocol.DEFAULT_KEY,
        allow: Sequence[str] = (),
        tracker: tuple[str, int] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.key, self._tracker_address, self._say = key, tracker, say
        if not key or len(key.split()) != 1:
            raise BoardError(f"key must be one word, got {key!r}")
        try:
            self._allowed = [ipaddress.ip_network(entry, strict=False) for entry in allow]
        except ValueError as error:
            raise BoardError(f"allow must be addresses or networks such as 10.0.0.0/24: {error}") from None
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._socket = socket.create_server((host, port), family=family, backlog=8)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BoardError(f"cannot listen at {host}:{port}: {reason}; choose another --port or --host") from error
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._tracker: protocol.Tracker | None = None
        self._unused = 0
        self._child = 0

    def allowed(self, peer: str) -> bool:
        """Whether a client at this address may connect."""
        address = ipaddress.ip_address(peer.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return not self._allowed or any(address in network for network in self._allowed)

    def serve_forever(self) -> None:
        """Serve clients until the process is told to end (SIGINT, SIGTERM) or the server is closed."""
        while self._socket.fileno() >= 0:
            accepted = self._accept()
            if accepted is None:
                continue
            connection, peer, options = accepted
            with connection:
                self._say(f"session of {peer} starts")
                started = time.monotonic()
                end = self._run_session(connection, options)
                self._say(f"session of {peer} {end} after {time.monotonic() - started:.1f} s")

    def close(self) -> None:
        """Stop listening and end the session that runs."""
        self._socket.close()
        if self._tracker is not None:
            self._tracker.close()
        self._end_session()

    def _end_session(self) -> None:
        """Kill the session's process and those that it started."""
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child, signal.SIGKILL)

    def _expected_key(self) -> str:
        """The key of the next session; keeps the tracker informed."""
        if self._tracker_address is None:
            return self.key
        try:
            if self._tracker is None:
                self._tracker = protocol.Tracker(self._tracker_address, self.key, self.address[1])
                self._tracker.offer()
                self._unused = 0
                self._say(f"listed at the tracker {self._tracker_address[0]}:{self._tracker_address[1]}")
            elif not self._tracker.offered():
                self._unused += 1
                if self._unused > UNUSED_OFFERS:
                    self._tracker.offer()
                    self._unused = 0
        except (OSError, ValueError) as error:
            self._forget_tracker(str(error))
            return ""
        return self._tracker.match

    def _forget_tracker(self, reason: str) -> None:
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None
        assert self._tracker_address is not None
        host, port = self._tracker_address
        self._say(f"tracker {host}:{port}: {reason}; trying again every {TRACKER_SECONDS:.0f} s")

    def _accept(self) -> tuple[socket.socket, str, dict[str, str]] | None:
        """The next client that may connect and names the right key, or None after a while without one."""
        key = self._expected_key()
        wait = None if self._tracker_address is None else TRACKER_SECONDS
        if not select.select([self._socket], [], [], wait)[0]:
            return None
        connection, address = self._socket.accept()
        peer = address[0]
        try:
            if not self.allowed(peer):
                self._say(f"refused {peer}: not in --allow")
                connection.close()
                return None
            connection.settimeout(HANDSHAKE_SECONDS)
            options = protocol.handshake(connection, key, self.key) if key else None
            if options is None:
                self._say(f"refused {peer}: it named another key, or is not a client of TVM's RPC")
                connection.close()
                return None
        except OSError:  # a client that only looked whether somebody is here
            connection.close()
            return None
        connection.settimeout(None)
        protocol.keep_alive(connection)
        return connection, peer, options

    def _run_session(self, connection: socket.socket, options: dict[str, str]) -> str:
        """Run a session in a child process; says how it ended."""
        try:
            limit = float(options.get("timeout", 0)) or None
        except ValueError:
            limit = None
        folder = Path(tempfile.mkdtemp(prefix="tern-board-"))
        ended, alive = os.pipe()
        try:
            sys.stdout.flush()
            self._child = os.fork()
            if self._child == 0:
                self._be_session(connection, folder)
            with contextlib.suppress(OSError):  # the child may have been faster, or be gone
                os.setpgid(self._child, self._child)
            os.close(alive)  # the child holds the only other end: the pipe ends when it does
            timed_out = not select.select([ended], [], [], limit)[0]
            self._end_session()  # also what it left running
            status = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
            self._child = 0
        finally:
            self._end_session()
            self._child = 0
            os.close(ended)
            shutil.rmtree(folder, ignore_errors=True)
            if self._tracker is not None:
                try:
                    self._tracker.offer()
                    self._unused = 0
                except OSError as error:
                    self._forget_tracker(str(error))
        if timed_out:
            return f"was stopped at the client's limit of {limit:g} s"
        return "ended" if status == 0 else f"crashed ({_reason(status)})"

    def _be_session(self, connection: socket.socket, folder: Path) -> None:
        """The child's life; does not return."""
        status = 1
        try:
            os.setpgid(0, 0)
            if sys.platform == "linux":  # a killed server leaves no session that holds its port
                ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            self._socket.close()
            if self._tracker is not None:
                self._tracker.close()
            session.run(connection.fileno(), folder)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)


def _reason(status: int) -> str:
    """How a process ended, from its exit code."""
    if status == -signal.SIGILL:
        return "illegal instruction: the library was built for another CPU"
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def end_on_signals() -> None:
    """Let SIGTERM end this process as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
