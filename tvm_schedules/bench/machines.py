"""Machines that run engines in processes: this one or a board; see :mod:`tvm_schedules.bench.plain` for plain RPC.

A machine starts engines and knows its condition; an engine answers the commands of
:mod:`tvm_schedules.engines.worker`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tvm_schedules.artifact import store
from tvm_schedules.bench import peers
from tvm_schedules.common.reading import read_arrays, reading
from tvm_schedules.engines import system
from tvm_schedules.engines.process import BY_FILE, Engine, Worker
from tvm_schedules.errors import BenchError, BoardError
from tvm_schedules.remote.client import Board, ConnectionLostError


class Running(Protocol):
    """An engine that was started.

    Attributes:
        engine: The engine that runs.
        ready: ``load_seconds``, and ``error``: the largest relative difference from the stored reference outputs.
    """

    engine: Engine
    ready: dict[str, Any]

    def ask(self, do: str, seconds: float = 0.0) -> dict[str, Any]:
        """Let the engine do something: ``time``, ``steps``, ``ceiling``, ``memory``."""

    def close(self) -> None:
        """End the engine."""


class Machine(Protocol):
    """What starts engines and knows its condition."""

    def cpus(self) -> list[int]:
        """Numbers of the CPUs that may be used."""

    def describe(self) -> dict[str, Any]:
        """What does not change, see :func:`tvm_schedules.engines.system.machine`; None for what is not known."""

    def condition(self) -> dict[str, Any]:
        """What changes, see :func:`tvm_schedules.engines.system.condition`; None for what is not known."""

    def lacks(self, engine: str) -> str | None:
        """Why an alternative cannot be run, None where it can."""

    def start(self, engine: Engine, artifact: Path, threads: int, cpus: Sequence[int]) -> Running:
        """Start an engine and wait until it is ready.

        Raises:
            BenchError: The engine cannot load the network, or says nothing.
        """


class BoardMachine(Machine, Protocol):
    """A board."""

    def outputs(self, artifact: Path) -> list[list[Any]]:
        """Outputs of an artifact for its stored samples: for every run the arrays in the network's order.

        Raises:
            CpuFeatureError: The board cannot run the artifact.
            BenchError: The library fails on the board.
        """


class ThisMachine:
    """This machine; every engine is a process."""

    def cpus(self) -> list[int]:
        """See :class:`Machine`."""
        return system.usable_cpus()

    def describe(self) -> dict[str, Any]:
        """See :class:`Machine`."""
        return system.machine()

    def condition(self) -> dict[str, Any]:
        """See :class:`Machine`."""
        return system.condition()

    def lacks(self, engine: str) -> str | None:
        """See :class:`Machine`; an engine that is not there says so itself."""
        return None

    def start(self, engine: Engine, artifact: Path, threads: int, cpus: Sequence[int]) -> Running:
        """See :class:`Machine`."""
        return Worker(engine, artifact, threads, cpus)


class BoardWorker:
    """An engine in a process of a board that runs ``tern-board serve``."""

    def __init__(self, board: Board, engine: Engine, file: str, threads: int, cpus: Sequence[int]) -> None:
        self.board, self.engine = board, engine
        config: dict[str, Any] = {"kind": engine.kind, "name": engine.name, "file": file, "two_bit": engine.two_bit}
        self.ready = self._check(
            board.ask("tern.board.start", json.dumps({**config, "threads": threads, "cpus": cpus}))
        )
        self._number = self.ready["id"]

    def _check(self, answer: dict[str, Any] | None) -> dict[str, Any]:
        assert answer is not None
        if "failed" in answer:
            raise BenchError(answer["failed"])
        return answer

    def ask(self, do: str, seconds: float = 0.0) -> dict[str, Any]:
        """See :class:`Running`."""
        return self._check(self.board.ask("tern.board.ask", self._number, do, float(seconds)))

    def close(self) -> None:
        """See :class:`Running`."""
        with contextlib.suppress(ConnectionLostError):
            self.board.call("tern.board.stop", self._number)


class PythonBoard:
    """A board that runs ``tern-board serve``: engines are processes there, exactly as on this machine."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._uploaded: set[Path] = set()

    def outputs(self, artifact: Path) -> list[list[Any]]:
        """See :class:`BoardMachine`."""
        metadata = store.read_metadata(artifact)
        self.board.check_target(artifact, metadata)
        running = self.start(peers.ours(artifact, metadata), artifact, 1, self.cpus()[:1])
        try:
            content = self.board.download(running.ask("outputs")["file"])
        finally:
            running.close()
        with reading(f"what {self.board.name} sent", BoardError):
            arrays = read_arrays(content)
            return [list(run) for run in zip(*(arrays[str(index)] for index in range(len(arrays))), strict=True)]

    def cpus(self) -> list[int]:
        """See :class:`Machine`."""
        return list(self.board.info["cpus"])

    def describe(self) -> dict[str, Any]:
        """See :class:`Machine`."""
        return dict(self.board.info)

    def condition(self) -> dict[str, Any]:
        """See :class:`Machine`."""
        return self.board.condition() or {}

    def lacks(self, engine: str) -> str | None:
        """See :class:`Machine`."""
        if engine in BY_FILE:
            return f"its file is here: copy it to {self.board.name}, and run tern-bench there"
        if engine in self.board.info["packages"]:
            return None
        return f"it is not installed on {self.board.name}; there: pip install {engine}"

    def start(self, engine: Engine, artifact: Path, threads: int, cpus: Sequence[int]) -> Running:
        """See :class:`Machine`."""
        names = (*store.read_metadata(artifact, False)["files"], store.METADATA)
        needed = [artifact / name for name in names if (artifact / name).is_file()]
        needed += [Path(engine.path)] if engine.kind != "tern" else []
        for path in needed:
            if path not in self._uploaded:
                self.board.upload(path)
                self._uploaded.add(path)
        return BoardWorker(self.board, engine, Path(engine.path).name, threads, cpus)
