"""A board on the other side of TVM's RPC: upload, load, run and time there, from here.

    >>> from tvm_schedules.bench import remote
    >>> with remote.connect("pi4.local:9090") as board:                               # doctest: +SKIP
    ...     library = board.load("kernel.so")
    ...     arguments = [board.tensor(x), board.tensor(weights), board.tensor(y)]
    ...     seconds = board.time(library, "main", arguments, repeat=20)

The board runs ``tern-board serve``, TVM's own ``python -m tvm.exec.rpc_server``, or the C++ server of ``examples/cpp``;
what the last two cannot tell is None.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tvm_schedules import compat
from tvm_schedules.artifact.load import check_cpu
from tvm_schedules.backends.cpu.threads import own_function
from tvm_schedules.common.reading import reading
from tvm_schedules.errors import BoardError
from tvm_schedules.remote.protocol import DEFAULT_KEY, DEFAULT_PORT, claim, keep_alive, listed, parse_address

CONNECT_SECONDS = 10.0
PATIENCE = 120.0
"""Seconds of silence after which a board counts as lost; what a board is asked for takes a few seconds."""

WAIT = 60.0
"""Seconds to wait for a board that is busy."""

BUSY_PAUSE = 1.0


class ConnectionLostError(BoardError):
    """The connection to a board broke while it was used."""


class Board:
    """An open session; a context manager that ends it.

    Args:
        rpc: TVM's session.
        patience: Seconds of silence after which the connection is given up, for messages.
        name: For messages and reports, for example ``pi4.local:9090``.

    Attributes:
        info: What :func:`tvm_schedules.board.session.describe` says about the machine; empty where the server has no
            such function.
    """

    def __init__(self, rpc: Any, patience: float = PATIENCE, name: str = "board") -> None:
        self.name, self.patience = name, patience
        self._rpc: Any = rpc
        self._device = rpc.cpu(0)
        self._numbers = itertools.count()
        self.info: dict[str, Any] = self.ask("tern.board.describe") or {}

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session; libraries and tensors of it must not be used afterwards."""
        self._rpc = self._device = None

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn TVM's errors into ours."""
        try:
            yield
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
            if compat.is_remote_failure(error):
                raise BoardError(f"{self.name}: {lines[-1] if lines else 'failed there'}") from error
            if compat.is_timeout(error):
                raise ConnectionLostError(
                    f"{self.name} said nothing for {self.patience:g} s: it is frozen, or busy for longer; look at it, "
                    "restart tern-board serve there, and repeat the command, with a larger --timeout if it was busy"
                ) from error
            raise ConnectionLostError(
                f"the connection to {self.name} broke ({lines[0] if lines else 'no reason given'}); look at the "
                "server's output there: the session may have crashed or run into its time limit, or the board lost "
                "power or its network. Start tern-board serve again if it is gone, then repeat the command"
            ) from error

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a global function on the board.

        Raises:
            AttributeError: The board has none of that name.
            BoardError: It failed there.
            ConnectionLostError: The connection broke.
        """
        with self._errors():
            return self._rpc.get_function(name)(*arguments)

    def ask(self, name: str, *arguments: Any) -> dict[str, Any] | None:
        """JSON's value from a function of ours on the board, None where the board has none of that name."""
        try:
            answer = self.call(name, *arguments)
        except AttributeError:
            return None
        with reading(f"the answer of {self.name}", BoardError):
            return dict(json.loads(answer))

    def condition(self) -> dict[str, Any] | None:
        """Clock, temperature and so on, see :func:`tvm_schedules.engines.system.condition`; None where not told."""
        return self.ask("tern.board.condition")

    def upload(self, path: str | Path, name: str | None = None) -> str:
        """Copy a file into the session's folder on the board; returns its name there."""
        there = name or Path(path).name
        with self._errors():
            self._rpc.upload(str(path), there)
        return there

    def download(self, name: str) -> bytes:
        """The content of a file of the session's folder on the board."""
        with self._errors():
            return bytes(self._rpc.download(name))

    def load(self, library: str | Path) -> Any:
        """Upload and load a shared library.

        Every library gets a name of its own on the board: the loader would take a second one of the same name for the
        first.
        """
        there = self.upload(library, f"{next(self._numbers)}-{Path(library).name}")
        with self._errors():
            return self._rpc.load_module(there)

    def tensor(self, array: np.ndarray) -> Any:
        """A copy of an array in the board's memory, aligned to 64 bytes; ``.numpy()`` brings it back."""
        with self._errors():
            return compat.tensor(np.ascontiguousarray(array), self._device)

    def fill(self, tensor: Any, array: np.ndarray) -> None:
        """Copy an array into a tensor on the board."""
        with self._errors():
            tensor.copyfrom(np.ascontiguousarray(array))

    def fetch(self, tensor: Any) -> np.ndarray:
        """The content of a tensor on the board."""
        with self._errors():
            return np.asarray(tensor.numpy())

    def run(self, library: Any, function: str, arguments: Sequence[Any]) -> None:
        """Call a function of a loaded library with tensors of the board and numbers."""
        with self._errors():
            library[function](*arguments)

    def set_threads(self, library: Any, count: int) -> None:
        """Let the loops of a loaded library use that many threads in this session.

        (A library without threads of its own uses TVM's, at most ``TVM_NUM_THREADS`` of the server where that is set.)

        Raises:
            BoardError: ``count`` is not between 1 and the board's number of cores, where that is known.
        """
        cores = self.info.get("cores")
        if not isinstance(count, int) or count < 1 or (cores and count > cores):
            raise BoardError(
                f"threads must be between 1 and the {cores or 'number of'} cores of {self.name}, got {count}"
            )
        with self._errors():
            _, own = own_function(library)
            if own is not None:
                own(count, 0)
            else:
                biggest_cores_first = 1
                self.call("runtime.config_threadpool", biggest_cores_first, count)

    def time(
        self,
        library: Any,
        function: str,
        arguments: Sequence[Any],
        *,
        number: int = 1,
        repeat: int = 10,
        cooldown: float = 0.0,
    ) -> list[float]:
        """Time a function on the board, by the board's own clock; the connection is not in it.

        Args:
            library: From :meth:`load`.
            function: Name of an exported function.
            arguments: Tensors of :meth:`tensor`, and numbers.
            number: Calls of one measurement.
            repeat: Measurements; one more call before them does not count.
            cooldown: Seconds of rest between measurements.

        Returns:
            Seconds per call, one value per measurement.

        Raises:
            BoardError: The function failed there.
            ConnectionLostError: The connection broke, or the library crashed.
        """
        with self._errors():
            evaluator = library.time_evaluator(
                function, self._device, number=number, repeat=repeat, cooldown_interval_ms=int(cooldown * 1e3)
            )
            return [float(value) for value in evaluator(*arguments).results]

    def check_target(self, artifact: str | Path, metadata: Mapping[str, Any]) -> None:
        """Refuse an artifact that the board's CPU cannot run, where the board tells what it has.

        One for a graphics processor says itself on the board what it lacks.

        Raises:
            CpuFeatureError: Another architecture, or instruction sets that are not there.
        """
        if metadata.get("code"):
            return
        info = self.info
        machine = f"{self.name} ({info['cpu']})" if info else self.name
        check_cpu(artifact, metadata["target"], machine, info.get("architecture"), info.get("features"))


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
        timeout: As of :func:`connect`.
        patience: As of :func:`connect`.
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
        raise BoardError(
            f"no board with key {key!r} at the tracker {host}:{port}; there are: {', '.join(known) or 'none'}"
        )
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
    finish = time.monotonic() + wait
    where = f"{host}:{port}"
    while True:
        before = _sockets()
        silent = threading.Event()

        def give_up(before: dict[str, int] = before, silent: threading.Event = silent) -> None:
            silent.set()
            _each_new(before, lambda connection: connection.shutdown(socket.SHUT_RDWR))

        # TVM's client waits for ever, in a call that lets other threads run: one of them ends its connection.
        timer = threading.Timer(patience, give_up)
        timer.daemon = True
        timer.start()
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
            timer.cancel()


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
