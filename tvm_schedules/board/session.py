"""One client's session on a board, in a process of its own: files, libraries, and the functions ``tern.board.*``.

The functions take and return JSON, for that is what every version of TVM's RPC carries.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tvm_schedules.common.version import versions
from tvm_schedules.engines import system


def describe() -> dict[str, Any]:
    """The machine, which CPUs are used, how many threads TVM uses by default, which engines there are."""
    from importlib.util import find_spec

    from tvm_schedules.backends.cpu.threads import default_threads

    packages = versions("tern-lightning", "apache-tvm", "onnxruntime")
    if find_spec("onnxruntime") is None:
        packages.pop("onnxruntime", None)
    return {
        **system.machine(),
        "cpus": system.usable_cpus(),
        "threads": default_threads(),
        "packages": packages,
    }


class Session:
    """State of a session: its folder and the engines that it started.

    Args:
        folder: Where uploaded files go; the session's own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._workers: dict[int, Any] = {}

    def path(self, name: str) -> str:
        """Where an uploaded file of that name lies; no name leads out of the folder."""
        return str(self.folder / Path(name).name)

    def load_module(self, name: str) -> Any:
        """An uploaded library."""
        from tvm_schedules.backends.cpu.libraries import load_library

        return load_library(self.path(name))

    def start(self, config: str) -> str:
        """Start an engine, see :class:`tvm_schedules.engines.process.Worker`.

        Args:
            config: JSON of ``kind``, ``name``, ``file`` (an uploaded ONNX file; not for ``tern``), ``two_bit``,
                ``threads``, ``cpus``. The artifact's files are the uploaded ones.

        Returns:
            JSON of ``id`` and what the engine said when it was ready, or of ``failed``.
        """
        from tvm_schedules.engines.process import Engine, Worker
        from tvm_schedules.errors import TernError

        given = json.loads(config)
        path = self.path(given["file"]) if given.get("file") else str(self.folder)
        engine = Engine(given["name"], given["kind"], path, 0, given.get("two_bit", False))
        try:
            worker = Worker(engine, self.folder, given["threads"], given["cpus"])
        except TernError as error:
            return json.dumps({"failed": str(error)})
        number = len(self._workers)
        self._workers[number] = worker
        return json.dumps({"id": number, **worker.ready})

    def ask(self, number: int, do: str, seconds: float) -> str:
        """Let an engine do something; JSON of its answer, or of ``failed``."""
        from tvm_schedules.errors import TernError

        try:
            return json.dumps(self._workers[number].ask(do, seconds))
        except TernError as error:
            return json.dumps({"failed": str(error)})

    def stop(self, number: int) -> None:
        """End an engine's process."""
        self._workers.pop(number).close()

    def close(self) -> None:
        """End all engines."""
        for number in list(self._workers):
            self.stop(number)

    def functions(self) -> dict[str, Any]:
        """Name -> function, for TVM's registry: what the client can call by name."""
        return {
            "tvm.rpc.server.workpath": self.path,
            "tvm.rpc.server.load_module": self.load_module,
            "tern.board.describe": lambda: json.dumps(describe()),
            "tern.board.condition": lambda: json.dumps(system.condition()),
            "tern.board.start": self.start,
            "tern.board.ask": self.ask,
            "tern.board.stop": self.stop,
        }


def run(descriptor: int, folder: Path) -> None:
    """Serve the client at the other end of a connected socket until it is gone."""
    from tvm_schedules import compat

    os.chdir(folder)
    session = Session(folder)
    try:
        compat.serve_rpc(descriptor, session.functions())
    finally:
        session.close()
