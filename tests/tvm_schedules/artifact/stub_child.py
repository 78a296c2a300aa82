"""A compiler's process that does what a test needs of it, without TVM."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tvm_schedules.artifact import child


def install(kind: str) -> None:
    """Let the process do its jobs by the function of that name."""
    child._warm = lambda: time.sleep(600 if kind in ("early", "slow") else 0)
    child._work = globals()[kind]


def fine(channel: Any, job: dict[str, Any]) -> dict[str, Any]:
    channel.say("said")
    (Path(job["folder"]) / "model.so").write_bytes(b"new")
    metadata = {"pid": os.getpid(), "directory": job["directory"], "mark": job["environ"].get("MARK")}
    return {"metadata": metadata, "report": None, "tuning": None}


def hang(channel: Any, job: dict[str, Any]) -> None:
    """As a compiler that has started a linker."""
    (Path(job["folder"]) / "model.so").write_bytes(b"half")
    linker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    channel.say(f"{os.getpid()} {linker.pid}")
    time.sleep(600)


def abort(channel: Any, job: dict[str, Any]) -> None:
    (Path(job["folder"]) / "model.so").write_bytes(b"half")
    print("LLVM ERROR: IO failure on output stream", flush=True)
    print("and a trace behind it", file=sys.stderr, flush=True)
    os.abort()


def fault(channel: Any, job: dict[str, Any]) -> None:
    raise KeyError("a fault of ours")


def refusal(channel: Any, job: dict[str, Any]) -> None:
    from tvm_schedules.errors import ModelError

    raise ModelError("no such operator")


def lacking(channel: Any, job: dict[str, Any]) -> None:
    import no_such_package_at_all  # type: ignore[import-not-found]  # noqa: F401


early = slow = fine  # which it does not come to
