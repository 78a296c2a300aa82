"""A board on the other side of TVM's RPC: upload, load, run and time there, from here.

    >>> from tvm_schedules.remote.connection import connect
    >>> with connect("pi4.local:9090") as board:                                      # doctest: +SKIP
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tvm_schedules import compat
from tvm_schedules.backends import registry
from tvm_schedules.backends.cpu.threads import own_function
from tvm_schedules.common.reading import reading
from tvm_schedules.errors import BoardError
from tvm_schedules.remote.protocol import PATIENCE


class ConnectionLostError(BoardError):
    """The connection to a board broke while it was used."""


class Board:
    """An open session; a context manager that ends it.

    Args:
        rpc: The session that TVM opened.
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
        """End the session; libraries and tensors of it must not be used afterward."""
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
            BoardError: The function fails on the board.
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
        """What :func:`tvm_schedules.engines.system.condition` finds on the board; None where it does not say."""
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
        info, target = self.info, metadata["target"]
        machine = f"{self.name} ({info['cpu']})" if info else self.name
        backend = registry.for_artifact(metadata)
        backend.check_machine(artifact, target, machine, info.get("architecture"), info.get("features"))
