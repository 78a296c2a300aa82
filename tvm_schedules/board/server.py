"""Accepts clients and gives one at a time a process, so that a library that crashes ends its session alone.

TVM's own server would do for this, but it needs more packages on the board, stops for good when a session crashes,
waits for ever for a client that connects and says nothing, and cannot be told whom to let in. Here all connections are
served in one loop: nobody who is slow, silent or waiting holds up anybody else, and whoever comes while a session runs
is told so after a moment.
"""

from __future__ import annotations

import contextlib
import ipaddress
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from tvm_schedules.board.running import Running
from tvm_schedules.errors import BoardError
from tvm_schedules.remote import protocol

HANDSHAKE_SECONDS = 5.0  # from a connection to its last word, however it is split
BUSY_SECONDS = 3.0  # how long a client waits for the end of another's session before it is told to come again
MOST_CONNECTIONS = 64  # connections that have not said everything yet
TRACKER_SECONDS = 2.0  # how often the tracker is asked; as TVM's server does
UNUSED_OFFERS = 4  # that many times the offer was taken and nobody came: make a new one


def is_loopback(host: str) -> bool:
    """Whether a server that is bound to ``host`` can be reached from this machine alone."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


@dataclass
class _Waiting:
    """A client that has no session yet."""

    connection: socket.socket
    peer: str
    finish: float
    greeting: protocol.Greeting = field(default_factory=protocol.Greeting)


@dataclass(frozen=True)
class Settings:
    """Where a server listens, whom it lets in, and for how long.

    Attributes:
        host: Address to listen at.
        port: Port, 0 for any that is free.
        key: Clients have to name it; no secret, only a name.
        allow: Addresses or networks (``10.0.0.0/24``) that may connect; empty for all that can reach ``host``.
        tracker: Host and port of a tracker to be listed at.
        limit: Seconds after which a session ends at the latest; clients may ask for less.
        idle: Seconds after which a session ends in which nothing happens.
    """

    host: str = "127.0.0.1"
    port: int = protocol.DEFAULT_PORT
    key: str = protocol.DEFAULT_KEY
    allow: Sequence[str] = ()
    tracker: tuple[str, int] | None = None
    limit: float = protocol.SESSION_SECONDS
    idle: float = protocol.IDLE_SECONDS

    def check(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """Refuse what no server can be.

        Returns:
            The networks that may connect; none for all.

        Raises:
            BoardError: ``allow`` has an entry that is no address, the key is not one word, or a time is not positive.
        """
        if not self.key or len(self.key.split()) != 1:
            raise BoardError(f"key must be one word, got {self.key!r}")
        for name, seconds in (("limit", self.limit), ("idle", self.idle)):
            if not 0 < seconds < float("inf"):
                raise BoardError(f"{name} must be a number of seconds above zero, got {seconds}")
        try:
            return [ipaddress.ip_network(entry, strict=False) for entry in self.allow]
        except ValueError as error:
            raise BoardError(f"allow must be addresses or networks such as 10.0.0.0/24: {error}") from None

    def listen(self) -> socket.socket:
        """The socket that clients connect to.

        Raises:
            BoardError: The address cannot be used.
        """
        try:
            family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((self.host, self.port), family=family, backlog=MOST_CONNECTIONS)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            where = f"{self.host}:{self.port}"
            raise BoardError(f"cannot listen at {where}: {reason}; choose another --port or --host") from error


class Server:
    """A board's RPC server.

    Args:
        settings: Where it listens, whom it lets in, and for how long.
        say: Called with a line of text for every event.

    Attributes:
        address: Host and port that the server listens at.

    Raises:
        BoardError: The address cannot be used, ``allow`` has an entry that is no address, or a time is not positive.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None] = print) -> None:
        self.settings, self._say = settings, say
        self._allowed = settings.check()
        self._socket = settings.listen()
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._tracker: protocol.Tracker | None = None
        self._tracker_due = 0.0
        self._unused = 0
        self._expected = settings.key if settings.tracker is None else ""
        self._greeting: list[_Waiting] = []
        self._queue: list[_Waiting] = []
        self._process: Running | None = None

    def allowed(self, peer: str) -> bool:
        """Whether a client at this address may connect."""
        address = ipaddress.ip_address(peer.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return not self._allowed or any(address in network for network in self._allowed)

    def serve_forever(self) -> None:
        """Serve clients until the process is told to end (SIGINT, SIGTERM) or the server is closed."""
        while self._socket.fileno() >= 0:
            self.step()

    def step(self, longest: float = 3600.0) -> None:
        """Wait until something happens, at most ``longest`` seconds, and do what has to be done."""
        now = time.monotonic()
        self._ask_tracker(now)
        running = self._process
        due = [now + longest, *(waiting.finish for waiting in (*self._greeting, *self._queue))]
        if running is not None:
            due.append(running.due)
        elif self.settings.tracker is not None:
            due.append(self._tracker_due)
        sources: list[Any] = [self._socket, *(waiting.connection for waiting in self._greeting)]
        sources += [running.ended] if running is not None else []
        ready = set(select.select(sources, [], [], max(0.0, min(due) - now))[0])
        now = time.monotonic()
        if running is not None and (running.ended in ready or running.over(now)):
            self._finish(running)
        if self._socket in ready:
            self._accept()
        for waiting in list(self._greeting):
            if waiting.connection in ready:
                self._listen(waiting)
            elif now >= waiting.finish:
                self._drop(waiting, "it did not say who it is in time")
        self._serve_queue(now)

    def close(self) -> None:
        """Stop listening and end the session that runs."""
        self._socket.close()
        for waiting in (*self._greeting, *self._queue):
            waiting.connection.close()
        if self._tracker is not None:
            self._tracker.close()
        if self._process is not None:
            self._process.end()
            self._process = None

    # -- the tracker ---------------------------------------------------------------------------------------------------
    def _ask_tracker(self, now: float) -> None:
        """Keep the tracker informed, and know the key of the next session."""
        if self.settings.tracker is None or now < self._tracker_due or self._process is not None:
            return
        self._tracker_due = now + TRACKER_SECONDS
        try:
            if self._tracker is None:
                self._tracker = protocol.Tracker(self.settings.tracker, self.settings.key, self.address[1])
                self._offer()
                self._say(f"listed at the tracker {self.settings.tracker[0]}:{self.settings.tracker[1]}")
            elif not self._tracker.offered():
                self._unused += 1
                if self._unused > UNUSED_OFFERS:
                    self._offer()
        except OSError as error:
            self._forget_tracker(str(error))

    def _offer(self) -> None:
        assert self._tracker is not None
        self._tracker.offer()
        self._unused, self._expected = 0, self._tracker.match

    def _forget_tracker(self, reason: str) -> None:
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None
        assert self.settings.tracker is not None
        self._expected = ""
        host, port = self.settings.tracker
        self._say(f"tracker {host}:{port}: {reason}; trying again every {TRACKER_SECONDS:.0f} s")

    # -- clients without a session -------------------------------------------------------------------------------------
    def _accept(self) -> None:
        """Take a connection, whose client has a while to say who it is."""
        try:
            connection, address = self._socket.accept()
        except OSError:  # it is gone already
            return
        connection.setblocking(False)
        waiting = _Waiting(connection, address[0], time.monotonic() + HANDSHAKE_SECONDS)
        if not self.allowed(waiting.peer):
            self._say(f"refused {waiting.peer}: not in --allow")
            connection.close()
            return
        if len(self._greeting) >= MOST_CONNECTIONS:
            self._drop(self._greeting[0], "too many connections at once")
        self._greeting.append(waiting)

    def _listen(self, waiting: _Waiting) -> None:
        """Take what a client says; one that has said everything gets a session, or waits for one."""
        try:
            data = waiting.connection.recv(waiting.greeting.missing)
            if not data:  # a client that only looked whether somebody is here
                self._drop(waiting)
                return
            waiting.greeting.feed(data)
        except BlockingIOError:
            return
        except OSError:
            self._drop(waiting)
            return
        except ValueError as error:
            self._drop(waiting, str(error))
            return
        if waiting.greeting.words is None:
            return
        if not self._expected or waiting.greeting.words[0] != f"client:{self._expected}":
            with contextlib.suppress(OSError):
                protocol.refuse(waiting.connection, protocol.MISMATCH)
            self._drop(waiting, "it named another key")
            return
        self._greeting.remove(waiting)
        waiting.finish = time.monotonic() + BUSY_SECONDS
        self._queue.append(waiting)

    def _drop(self, waiting: _Waiting, reason: str = "") -> None:
        if waiting in self._greeting:
            self._greeting.remove(waiting)
        waiting.connection.close()
        if reason:
            self._say(f"refused {waiting.peer}: {reason}")

    def _serve_queue(self, now: float) -> None:
        """Give the first client that is still there the board, and tell those who waited long enough to come again."""
        while self._process is None and self._queue:
            waiting = self._queue.pop(0)
            try:
                if waiting.connection.recv(1, socket.MSG_PEEK) == b"":
                    raise OSError("gone")
            except BlockingIOError:
                pass
            except OSError:
                waiting.connection.close()
                continue
            self._start(waiting)
        for waiting in [waiting for waiting in self._queue if now >= waiting.finish]:
            self._queue.remove(waiting)
            with contextlib.suppress(OSError):
                protocol.refuse(waiting.connection, protocol.BUSY)
            self._drop(waiting, "another session runs")

    # -- the session ---------------------------------------------------------------------------------------------------
    def _start(self, waiting: _Waiting) -> None:
        connection, peer = waiting.connection, waiting.peer
        with connection:
            try:
                connection.settimeout(HANDSHAKE_SECONDS)
                protocol.welcome(connection, self.settings.key)
                connection.settimeout(None)
                protocol.keep_alive(connection)
            except OSError:  # it is gone
                return
            others: list[Any] = [self._socket, *(other.connection for other in (*self._greeting, *self._queue))]
            others += [] if self._tracker is None else [self._tracker]
            limit = protocol.session_limit(waiting.greeting.options(), self.settings.limit)
            try:
                self._process = Running(connection, peer, limit, self.settings.idle, others)
            except OSError as error:  # no process, no memory, no room in the temporary folder
                self._say(f"session of {peer} cannot start: {error.strerror or error}")
                return
        self._say(f"session of {peer} starts")

    def _finish(self, running: Running) -> None:
        how = running.end()
        self._process = None
        self._say(f"session of {running.peer} {how} after {time.monotonic() - running.started:.1f} s")
        if self._tracker is not None:
            try:
                self._offer()
            except OSError as error:
                self._forget_tracker(str(error))


def end_on_signals() -> None:
    """Let SIGTERM end this process as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # another one would end the cleaning up
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
