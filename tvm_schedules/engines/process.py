"""An engine in a process of this machine, which :mod:`tvm_schedules.engines.worker` runs: start, questions, end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_schedules.common.reading import reading
from tvm_schedules.errors import BenchError

__all__ = ["BY_FILE", "PEERS", "Engine", "Worker"]

PEERS = ("openvino", "executorch", "deepsparse")
"""Engines that make a file of their own of an ONNX file, in an environment of their own."""

BY_FILE = {"executorch": "ExecuTorch", "litert": "LiteRT", "mnn": "MNN", "ncnn": "ncnn", "openvino": "OpenVINO"}
"""Engines that run a file of their own, which somebody has made of the same network, and what tables call them."""

SILENT_SECONDS = 600.0
"""Seconds that an engine may be silent while it loads a network, or beside what it is asked to take."""

TIMES_LONGER = 100
"""How many times longer than asked for a measurement may take: a single run may be longer than that."""


@dataclass(frozen=True)
class Engine:
    """Something to measure.

    Attributes:
        name: What tables call it.
        kind: ``tern``, ``onnxruntime`` or an engine of :mod:`tvm_schedules.engines.peer_engines`.
        path: The ONNX file, the engine's own file, or the artifact for ``tern``.
        bytes: Size on disk of what it needs to run the network (without the engine itself).
        two_bit: Whether it is the 2-bit file, which onnxruntime runs best without its fusion of quantized operators.
        python: Interpreter of the environment that has the engine; empty for this one.
    """

    name: str
    kind: str
    path: str
    bytes: int
    two_bit: bool = False
    python: str = ""

    @property
    def command(self) -> list[str]:
        """What starts a worker, here or in another environment, which has no need of this package."""
        if not self.python:
            return [sys.executable, "-m", "tvm_schedules.engines.worker"]
        return [self.python, "-I", str(Path(__file__).with_name("worker.py"))]


class Worker:
    """A running engine.

    Args:
        engine: The engine to start.
        artifact: The artifact, with its samples.
        threads: Number of threads of the engine.
        cpus: Numbers of the CPUs that it may use; none means all.

    Attributes:
        engine: The engine that was started.
        ready: ``load_seconds``, and ``error``: the largest relative difference from the stored reference outputs.

    Raises:
        BenchError: The engine cannot load the network, or says nothing.
    """

    def __init__(self, engine: Engine, artifact: Path, threads: int, cpus: Sequence[int]) -> None:
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
            self.ready = self._answer(SILENT_SECONDS)
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
        return self._answer(SILENT_SECONDS + TIMES_LONGER * seconds)

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
