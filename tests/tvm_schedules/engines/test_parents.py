"""Processes that this package starts end with their parent, whatever they do when it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tvm_schedules
from tests.tvm_schedules import artifact_nets
from tests.tvm_schedules.processes import gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and Linux's signal of a parent's death")

BUSY = """
import sys, ctypes
from tvm_schedules.engines.worker import end_with
end_with(int(sys.argv[1]))
print("ready", flush=True)
ctypes.PyDLL(None).sleep(60)  # a call that lets no other thread of Python run
"""
STARTS = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""
MEASURES = """
import sys
from pathlib import Path
from tvm_schedules.engines.process import Engine, Worker
folder = Path(sys.argv[1])
worker = Worker(Engine("tern", "tern", str(folder), 0), folder, 1, [])
worker.ask("memory")
print(worker._process.pid, flush=True)
worker.ask("time", 60.0)
"""
FORKS = """
import os, time
from tvm_schedules.artifact.process import Compiler
made = Compiler()
if os.fork() == 0:
    time.sleep(60)
print(made._process.pid, flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def killed(*command: str) -> Iterator[int]:
    """The process whose number a script prints before the script is killed; what it has forked is killed at the end."""
    parent = subprocess.Popen(
        [sys.executable, "-c", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        assert parent.stdout is not None
        parent.stdout.close()


def test_process_inside_of_a_long_call_ends_with_its_parent() -> None:
    with killed(STARTS, BUSY) as child:
        assert gone(child)


def test_process_whose_parent_was_gone_before_it_could_ask_ends_at_once() -> None:
    other = subprocess.Popen([sys.executable, "-c", ""])
    other.wait()
    done = subprocess.run([sys.executable, "-c", BUSY, str(other.pid)], capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, b"")


def test_engine_that_measures_ends_with_its_parent(tmp_path: Path) -> None:
    tvm_schedules.build(artifact_nets.exact_net(), tmp_path / "out", verify=False)
    with killed(MEASURES, str(tmp_path / "out")) as child:
        assert gone(child)


def test_compiler_ends_with_its_parent_though_a_fork_holds_its_input() -> None:
    with killed(FORKS) as child:
        assert gone(child)
