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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tvm_schedules import compat
from tvm_schedules.artifact.runtime import check_cpu
from tvm_schedules.artifact.threads import FUNCTION
from tvm_schedules.board.protocol import DEFAULT_KEY, DEFAULT_PORT, keep_alive, parse_address
from tvm_schedules.errors import BoardError

CONNECT_SECONDS = 10.0


class ConnectionLostError(BoardError):
    """The connection to a board broke while it was used."""


class Board:
    """An open session; a context manager that ends it.

    Args:
        rpc: TVM's session.
        name: For messages and reports, for example ``pi4.local:9090``.

    Attributes:
        info: What :func:`tvm_schedules.board.session.describe` says about the machine; empty where the server has no
            such function.
    """

    def __init__(self, rpc: Any, name: str) -> None:
        self.name = name
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
            return dict(json.loads(self.call(name, *arguments)))
        except AttributeError:
            return None

    def condition(self) -> dict[str, Any] | None:
        """Clock, temperature and so on, see :func:`tvm_schedules.bench.system.condition`; None where not told."""
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
            try:
                library[FUNCTION](count, 0)
            except AttributeError:
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


def connect(address: str, key: str = DEFAULT_KEY, timeout: float = 0) -> Board:
    """Open a session with a board's server; waits while another session runs there.

    Args:
        address: ``HOST:PORT`` or ``HOST``.
        key: The server's key.
        timeout: Seconds after which the server ends the session; 0 for never.

    Raises:
        BoardError: Nobody answers there, or the server has another key.
    """
    host, port = parse_address(address, DEFAULT_PORT)
    advice = "start the server there with: tern-board serve --host ADDRESS --allow THIS-MACHINE"
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise BoardError(f"no connection to {host}:{port} ({error.strerror or error}); {advice}") from error
    before = _sockets()
    try:
        session = compat.connect_rpc(host, port, key, timeout)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BoardError(
            f"{host}:{port} did not open a session with key {key!r} ({reason}); give the server's key by --key and "
            "look at its output: it may have refused this address"
        ) from error
    _keep_alive(before)
    return Board(session, f"{host}:{port}")


def request(tracker: str, key: str, timeout: float = 0) -> Board:
    """Get a free board from a tracker; waits until one is free.

    Args:
        tracker: ``HOST:PORT`` of ``python -m tvm.exec.rpc_tracker``.
        key: Which kind of board.
        timeout: Seconds after which the server ends the session; 0 for never.

    Raises:
        BoardError: Nobody answers there, no board of that key is listed, or the board cannot be reached.
    """
    host, port = parse_address(tracker)
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
        entry = compat.rpc_tracker(host, port)
    except (OSError, RuntimeError) as error:
        raise BoardError(
            f"no connection to the tracker {host}:{port} ({error}); start one with: python -m tvm.exec.rpc_tracker "
            "--host ADDRESS --port PORT"
        ) from error
    with contextlib.closing(entry):
        listed = sorted({item["key"].partition(":")[2] for item in entry.summary()["server_info"]})
        if key not in listed:
            raise BoardError(
                f"no board with key {key!r} at the tracker {host}:{port}; there are: {', '.join(listed) or 'none'}"
            )
        before = _sockets()
        try:
            session = entry.request(key, session_timeout=timeout)
        except RuntimeError as error:
            raise BoardError(f"{key} at the tracker {host}:{port}: {' '.join(str(error).split())}") from error
    _keep_alive(before)
    return Board(session, f"{key}@{host}:{port}")


def _sockets() -> dict[str, int]:
    """This process' sockets: the system's name, which is never used twice, and the number of the open file."""
    found = {}
    with contextlib.suppress(OSError):  # not Linux
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the directory's own, which is closed by now
                found[os.readlink(f"/proc/self/fd/{number}")] = int(number)
    return {name: number for name, number in found.items() if name.startswith("socket:")}


def _keep_alive(before: dict[str, int]) -> None:
    """Make the sockets that were opened since notice a board that is gone; TVM's client would wait for ever."""
    for name, number in _sockets().items():
        if name not in before:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as shared:
                keep_alive(shared)
