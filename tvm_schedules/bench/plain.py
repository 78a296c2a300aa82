"""An artifact on a board whose server has TVM's plain functions alone, such as those of ``examples/cpp`` and of TVM."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.artifact import load_samples, store
from tvm_schedules.artifact.load import constants_of, plan_of
from tvm_schedules.backends.cpu.files import LIBRARY, PROBE
from tvm_schedules.backends.cpu.probe import ACCUMULATORS, BLOCK, KINDS, MAX_TASKS
from tvm_schedules.bench.machines import Running
from tvm_schedules.engines import system
from tvm_schedules.engines.process import Engine
from tvm_schedules.engines.worker import MAX_RUNS, WARM_UPS, relative_error
from tvm_schedules.errors import BoardError
from tvm_schedules.remote.client import Board


class RemoteModel:
    """An artifact loaded on a board through plain RPC: weights are expanded here and sent.

    Args:
        board: An open session.
        artifact: The artifact's directory, here.

    Raises:
        ArtifactError: The artifact is damaged.
        CpuFeatureError: The board cannot run it.
    """

    def __init__(self, board: Board, artifact: str | Path) -> None:
        folder = Path(artifact)
        self.metadata = store.read_metadata(folder)
        if LIBRARY not in self.metadata["files"]:
            raise BoardError(f"{folder} has no library for TVM's plain RPC; start tern-board serve on {board.name}")
        board.check_target(folder, self.metadata)
        self.board, self.plan = board, plan_of(folder, self.metadata)
        self.library = board.load(folder / LIBRARY)
        arrays = [np.zeros(entry.shape, entry.dtype) for entry in (*self.plan.inputs, *self.plan.outputs)]
        arrays += [np.zeros(self.plan.arena_bytes or 0, np.uint8), constants_of(folder, self.plan)]
        self._tensors = [board.tensor(array) for array in arrays]

    def set_inputs(self, arrays: Sequence[np.ndarray]) -> None:
        """Copy inputs to the board, in the network's order."""
        for tensor, array in zip(self._tensors, arrays[: len(self.plan.inputs)], strict=False):
            self.board.fill(tensor, array)

    def arguments(self, begin: int = 0, end: int | None = None) -> list[Any]:
        """Arguments of ``tern_main`` for the steps ``begin <= i < end``."""
        return [*self._tensors, begin, len(self.plan.steps) if end is None else end]

    def __call__(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Run the network on the board; returns its outputs."""
        self.set_inputs(arrays)
        self.board.run(self.library, "tern_main", self.arguments())
        first = len(self.plan.inputs)
        return tuple(self.board.fetch(tensor) for tensor in self._tensors[first : first + len(self.plan.outputs)])

    def time(self, begin: int = 0, end: int | None = None, *, number: int = 1, repeat: int = 10) -> list[float]:
        """Seconds per run of the steps, on the data that is there: :meth:`~tvm_schedules.remote.client.Board.time`."""
        arguments = self.arguments(begin, end)
        return self.board.time(self.library, "tern_main", arguments, number=number, repeat=repeat)


def measure_remote(board: Board, probe: Path, vector_bytes: int, threads: int, seconds: float) -> dict[str, float]:
    """What a board can do at best, timed there; see :func:`tvm_schedules.backends.cpu.probe.measure`.

    Args:
        board: An open session.
        probe: The artifact's probe, here.
        vector_bytes: The target's vector width.
        threads: Number of threads that add at the same time.
        seconds: Time to spend on each kind.

    Returns:
        1e9 additions a second for ``u8`` and ``f32``, all threads together.

    Raises:
        BoardError: The board failed.
    """
    library = board.load(probe)
    board.set_threads(library, threads)
    result = {}
    for kind, dtype in KINDS.items():
        x = board.tensor(np.ones(BLOCK, np.uint8).view(dtype))
        out = board.tensor(np.zeros(MAX_TASKS * ACCUMULATORS * vector_bytes, np.uint8).view(dtype))

        def once(rounds: int, repeat: int, x: Any = x, out: Any = out, name: str = f"probe_{kind}") -> float:
            """Seconds of a round, the best of several tries."""
            counts = board.tensor(np.array([rounds, threads], np.int32))
            return min(board.time(library, name, [x, out, counts], repeat=repeat)) / rounds

        rounds = max(1, int(2e-3 / once(1000, 3)))  # about 2 ms a try
        best = once(rounds, max(3, int(seconds / 2e-3)))
        result[kind] = BLOCK // 2 // np.dtype(dtype).itemsize * threads / best / 1e9
    return result


class RpcWorker:
    """The artifact on a board with a plain RPC server, timed by TVM on the board; the connection is not in it."""

    def __init__(self, board: Board, engine: Engine, artifact: Path, threads: int) -> None:
        self.engine, self._threads, self._artifact = engine, threads, artifact
        started = time.perf_counter()
        self._model = RemoteModel(board, artifact)
        board.set_threads(self._model.library, threads)
        loaded = time.perf_counter() - started
        self._inputs, outputs = load_samples(artifact)
        error = relative_error(lambda arrays: self._model(*arrays), self._inputs, outputs)
        self.ready: dict[str, Any] = {"load_seconds": loaded, "error": error}
        self._board, self._asked = board, 0

    def ask(self, do: str, seconds: float = 0.0) -> dict[str, Any]:
        """See :class:`~tvm_schedules.bench.machines.Running`."""
        if do == "time":
            self._model.set_inputs(self._inputs[self._asked % len(self._inputs)])
            self._asked += 1
            return {"us": self._times(0, None, seconds)}
        if do == "steps":
            self._model(*self._inputs[0])
            count = len(self._model.plan.steps)
            each = seconds / (count + 1)
            empty = float(np.median(self._times(0, 0, each)))
            medians = [float(np.median(self._times(step, step + 1, each))) for step in range(count)]
            return {"us": [max(0.0, median - empty) for median in medians]}
        if do == "ceiling":
            width = self._model.metadata["target"]["vector_bytes"]
            return measure_remote(self._model.board, self._artifact / PROBE, width, self._threads, seconds)
        return self._board.ask("tern.board.memory") or {"peak_bytes": None, "own_bytes": None}

    def _times(self, begin: int, end: int | None, seconds: float) -> list[float]:
        """Microseconds of runs of about ``seconds`` in all."""
        guess = float(np.median(self._model.time(begin, end, repeat=WARM_UPS)))
        repeat = int(np.clip(seconds / max(guess, 1e-7), 3, MAX_RUNS))
        return [value * 1e6 for value in self._model.time(begin, end, repeat=repeat)]

    def close(self) -> None:
        """See :class:`~tvm_schedules.bench.machines.Running`; what the session holds on the board ends with it."""


class PlainBoard:
    """A board whose server has TVM's plain functions alone, such as the one of ``examples/cpp``: no other engines."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def outputs(self, artifact: Path) -> list[list[Any]]:
        """See :class:`~tvm_schedules.bench.machines.BoardMachine`."""
        model = RemoteModel(self.board, artifact)
        return [list(model(*run)) for run in load_samples(artifact)[0]]

    def cpus(self) -> list[int]:
        """See :class:`~tvm_schedules.bench.machines.Machine`; which CPUs run is up to TVM there."""
        return []

    def describe(self) -> dict[str, Any]:
        """See :class:`~tvm_schedules.bench.machines.Machine`."""
        return {**dict.fromkeys(system.machine()), **self.board.info}

    def condition(self) -> dict[str, Any]:
        """See :class:`~tvm_schedules.bench.machines.Machine`."""
        return {**dict.fromkeys(system.condition()), **(self.board.condition() or {})}

    def lacks(self, engine: str) -> str | None:
        """See :class:`~tvm_schedules.bench.machines.Machine`."""
        return f"the server on {self.board.name} runs no other engines; start tern-board serve there"

    def start(self, engine: Engine, artifact: Path, threads: int, cpus: Sequence[int]) -> Running:
        """See :class:`~tvm_schedules.bench.machines.Machine`."""
        return RpcWorker(self.board, engine, artifact, threads)
