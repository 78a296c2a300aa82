"""Where engines run: processes of this machine or of a board; see :mod:`tvm_schedules.bench.plain` for plain RPC.

A place starts engines and knows its machine; an engine answers the commands of :mod:`tvm_schedules.bench.worker`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tvm_schedules.artifact import store
from tvm_schedules.bench import peers, system
from tvm_schedules.common.reading import read_arrays, reading
from tvm_schedules.errors import BenchError, BoardError
from tvm_schedules.remote.client import Board, ConnectionLostError

PATIENCE = 600.0
"""Seconds that an engine may be silent while it loads a network, or beside what it is asked to take."""

SLACK = 100
"""How many times longer than asked for a measurement may take: a single run may be longer than that."""


class Running(Protocol):
    """An engine that was started.

    Attributes:
        engine: Which.
        ready: ``load_seconds``, and ``error``: the largest relative difference from the stored reference outputs.
    """

    engine: peers.Engine
    ready: dict[str, Any]

    def ask(self, do: str, seconds: float = 0.0) -> dict[str, Any]:
        """Let the engine do something: ``time``, ``steps``, ``ceiling``, ``memory``."""

    def close(self) -> None:
        """End the engine."""


class Place(Protocol):
    """A machine that runs engines."""

    def cpus(self) -> list[int]:
        """Numbers of the CPUs that may be used."""

    def machine(self) -> dict[str, Any]:
        """What does not change, see :func:`tvm_schedules.bench.system.machine`; None for what is not known."""

    def condition(self) -> dict[str, Any]:
        """What changes, see :func:`tvm_schedules.bench.system.condition`; None for what is not known."""

    def lacks(self, engine: str) -> str | None:
        """Why an alternative cannot be run, None where it can."""

    def start(self, engine: peers.Engine, artifact: Path, threads: int, cpus: Sequence[int]) -> Running:
        """Start an engine and wait until it is ready.

        Raises:
            BenchError: It failed.
        """


class BoardPlace(Place, Protocol):
    """A board."""

    def outputs(self, artifact: Path) -> list[list[Any]]:
        """Outputs of an artifact for its stored samples: for every run the arrays in the network's order.

        Raises:
            CpuFeatureError: The board cannot run the artifact.
            BenchError: It failed there.
        """


class Worker:
    """A running engine, see :mod:`tvm_schedules.bench.worker`."""

    def __init__(self, engine: peers.Engine, artifact: Path, threads: int, cpus: Sequence[int]) -> None:
        self.engine = engine
        config = {
            "engine": engine.kind,
            "path": engine.path,
            "two_bit": engine.two_bit,
            "artifact": str(artifact),
            "threads": threads,
            "cpus": list(cpus),
            "parent": os.getpid(),
        }
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [*engine.command, json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.ready = self._answer(PATIENCE)
        except BenchError:
            self.close()
            raise

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            self._process.kill()
            raise BenchError(f"{self.engine.name} failed: it said nothing for {seconds:.0f} s and was ended")
        line = self._process.stdout.readline()
        with reading(f"the answer of {self.engine.name}", BenchError):
            answer = dict(json.loads(line)) if line else {}
        if not line or "failed" in answer:
            self._errors.seek(0)
            reason = answer.get("failed") or " ".join(self._errors.read().split()[-40:])
            raise BenchError(f"{self.engine.name} failed: {reason or f'exit status {self._process.wait()}'}")
        return answer

    def ask(self, do: str, seconds: float = 0.0) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            BenchError: The engine failed or died.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died: its last words are in the answer
            self._process.stdin.write(json.dumps({"do": do, "seconds": seconds}) + "\n")
            self._process.stdin.flush()
        return self._answer(PATIENCE + SLACK * seconds)

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


class Local:
    """This machine; every engine is a process."""

    def cpus(self) -> list[int]:
        """See :class:`Place`."""
        return system.usable_cpus()

    def machine(self) -> dict[str, Any]:
        """See :class:`Place`."""
        return system.machine()

    def condition(self) -> dict[str, Any]:
        """See :class:`Place`."""
        return system.condition()

    def lacks(self, engine: str) -> str | None:
        """See :class:`Place`; an engine that is not there says so itself."""
        return None

    def start(self, engine: peers.Engine, artifact: Path, threads: int, cpus: Sequence[int]) -> Running:
        """See :class:`Place`."""
        return Worker(engine, artifact, threads, cpus)


class BoardWorker:
    """An engine in a process of a board that runs ``tern-board serve``."""

    def __init__(self, board: Board, engine: peers.Engine, file: str, threads: int, cpus: Sequence[int]) -> None:
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
        """See :class:`BoardPlace`."""
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
        """See :class:`Place`."""
        return list(self.board.info["cpus"])

    def machine(self) -> dict[str, Any]:
        """See :class:`Place`."""
        return dict(self.board.info)

    def condition(self) -> dict[str, Any]:
        """See :class:`Place`."""
        return self.board.condition() or {}

    def lacks(self, engine: str) -> str | None:
        """See :class:`Place`."""
        if engine in self.board.info["packages"]:
            return None
        return f"it is not installed on {self.board.name}; there: pip install {engine}"

    def start(self, engine: peers.Engine, artifact: Path, threads: int, cpus: Sequence[int]) -> Running:
        """See :class:`Place`."""
        names = (*store.read_metadata(artifact, False)["files"], store.METADATA)
        needed = [artifact / name for name in names if (artifact / name).is_file()]
        needed += [Path(engine.path)] if engine.kind != "tern" else []
        for path in needed:
            if path not in self._uploaded:
                self.board.upload(path)
                self._uploaded.add(path)
        return BoardWorker(self.board, engine, Path(engine.path).name, threads, cpus)
