"""A process that has imported what its first line of input names (torch, TVM), and forks for every run of tests.

Then it reads a line of JSON for each run, ``{"tests": [...], "seconds": limit, "touch": bool}``. The limit is one of
CPU time in any one process, so that a busy machine makes no difference. It answers with a line, ``{"status": pytest's,
or "timeout", "result": what the plugin wrote}``. Its working directory is the copy.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.mutants import touch

WAITING = 10
"""How many times its limit of CPU time a run may take on the clock: one that waits for ever uses none."""
_OUT_OF_TIME = (-signal.SIGXCPU, -signal.SIGKILL)


def _tests(job: dict[str, Any], folder: Path) -> int:
    """Run the tests of a job, in a process of their own."""
    os.environ.update({touch.ROOT: os.getcwd(), touch.RESULT: str(folder / "result")})
    plugin: Any = touch.Failed()
    if job["touch"]:
        os.environ[touch.CHILDREN] = str(folder / "children")
        plugin = touch.Touched()
    else:
        sys.dont_write_bytecode = True  # of files that are changed
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    options = ["-q", "-m", "not arm and not slow", f"--basetemp={folder / 'tmp'}", *([] if job["touch"] else ["-x"])]
    return int(pytest.main([*options, *job["tests"]], plugins=[plugin]))


def _run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fork, wait and tell."""
    folder.mkdir(parents=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            most = math.ceil(job["seconds"])
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (most, most + 5))
            log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
            for number in (1, 2):
                os.dup2(log, number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdin = os.fdopen(0, closefd=False)
            status = _tests(job, folder)
        finally:
            os._exit(status)
    end, ended = time.monotonic() + WAITING * job["seconds"], None
    try:
        while ended is None and time.monotonic() < end:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            time.sleep(0.01 if ended is None else 0)
    finally:  # it is not waited for yet, so that its number is still its own
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    result = folder / "result"
    found = json.loads(result.read_text()) if result.exists() else None
    return {
        "status": "timeout" if ended is None or code in _OUT_OF_TIME else code,
        "result": found,
        "log": (folder / "log").read_text()[-2000:],
    }


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in json.loads(sys.stdin.readline()):
        with contextlib.suppress(Exception):  # some modules cannot be imported alone
            importlib.import_module(name)
    gc.freeze()
    for number, line in enumerate(sys.stdin):
        folder = Path("mutants.tmp", str(number)).resolve()
        print(json.dumps(_run(json.loads(line), folder)), file=out, flush=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
