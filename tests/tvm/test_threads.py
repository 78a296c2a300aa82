"""Threads that are linked into libraries: by themselves, and as artifacts use them."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import tvm_schedules
from tvm_schedules import compat, linking
from tvm_schedules.bench import networks
from tvm_schedules.compile import compile_model
from tvm_schedules.targets import resolve

from .nets import Net

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="libraries have threads of their own on Linux")


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize("sanitizer", ["undefined", "address", "thread"])
def test_alone(tmp_path: Path, sanitizer: str) -> None:
    """Many starts, barriers, callers, a fork, under a race detector too."""
    for cpu, clock in enumerate([1800000, 2400000]):
        (tmp_path / f"clock{cpu}").write_text(f"{clock}\n")
    clocks = f'-DCPU_FREQUENCY="{tmp_path}/clock%d"'
    options = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", f"-fsanitize={sanitizer}", clocks, "-DCPUS=2"]
    if sanitizer == "thread":
        options.append("-DNO_FORK")  # it does not follow a process with threads into a child
    program = tmp_path / "check"
    assert COMPILER is not None
    command = [COMPILER, *options, f"-I{linking.THREADS.parent}", str(HERE / "threads_check.c"), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in built.stderr:
        pytest.skip(f"the compiler has no {sanitizer} sanitizer")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("threads") / "resnet20"
    tvm_schedules.build(networks.build("resnet20", 0.8), folder, "host", samples=networks.samples("resnet20"))
    return folder


def tasks() -> int:
    return len(os.listdir("/proc/self/task"))


def test_libraries_share_threads_and_leave_none(artifact: Path, tmp_path: Path) -> None:
    """In a process of its own, where no other library has threads yet."""
    other = tmp_path / "other"
    shutil.copytree(artifact, other)
    code = f"""
import os, gc, numpy as np, tvm_schedules
x = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype("float32")
def tasks(): return len(os.listdir("/proc/self/task"))
first = tvm_schedules.load({str(artifact)!r}, threads=1)
expected = first(x)
before = tasks()
first.threads = 3
assert (first(x) == expected).all()
assert tasks() == before + 2, (before, tasks())
second = tvm_schedules.load({str(other)!r}, threads=3)
assert (second(x) == expected).all()
assert tasks() == before + 2, (before, tasks())
del first
gc.collect()
assert (second(x) == expected).all()
assert tasks() == before + 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_an_unloaded_library_ends_its_threads(artifact: Path, tmp_path: Path) -> None:
    """As a program in C++ uses it (in Python TVM keeps libraries for good)."""
    import tvm_ffi

    library = tmp_path / "alone.so"
    shutil.copy(artifact / "model.so", library)
    model = tvm_schedules.load(artifact)
    before = tasks()
    loaded = tvm_ffi.load_module(str(library), keep_module_alive=False)
    loaded["tern_threads"](4, 0)
    loaded["tern_main"](*model._whole)
    assert tasks() == before + 3
    with pytest.raises(ValueError, match="at least 0"):
        loaded["tern_threads"](-1, 0)
    del loaded
    gc.collect()
    deadline = time.monotonic() + 5
    while tasks() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert tasks() == before


def test_callers_at_the_same_time(artifact: Path) -> None:
    """Each with its own number of threads, on one library."""
    x = np.random.default_rng(1).normal(size=(1, 3, 32, 32)).astype("float32")
    expected = tvm_schedules.load(artifact, threads=1)(x)
    wrong: list[int] = []

    def call(count: int) -> None:
        model = tvm_schedules.load(artifact, threads=count)
        wrong.extend(count for _ in range(100) if not np.array_equal(model(x), expected))

    callers = [threading.Thread(target=call, args=(count,)) for count in (1, 2, 3, 4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_a_fork_runs_with_threads(artifact: Path) -> None:
    model = tvm_schedules.load(artifact, threads=2)
    x = np.random.default_rng(2).normal(size=(1, 3, 32, 32)).astype("float32")
    expected = model(x)
    child = os.fork()
    if not child:
        os._exit(0 if np.array_equal(model(x), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_libraries_without_parallel_loops_have_none(tmp_path: Path) -> None:
    with_loops = linking._threads([str(linking.THREADS)], wakes=False)
    assert with_loops == ["-O2", "-pthread", "-fvisibility=hidden", "-DWAKES=0", str(linking.THREADS)]
    plain = tmp_path / "plain.o"
    plain.write_bytes(b"nothing of the kind")
    assert linking._threads([str(plain)], wakes=True) == []


@pytest.mark.parametrize(("operator", "wakes"), [(None, False), ("Sigmoid", True)])
def test_threads_are_woken_for_what_may_take_long(operator: str | None, wakes: bool) -> None:
    """What other functions than our own kernels take is not known."""
    net = Net((1, 1024))
    y = net.op("Gemm", net.quantize("input_0", 0.02, 3), net.weight((1024, 1024), 0.5), transB=1)
    model = net.model(net.op(operator, y) if operator else y)
    with mock.patch("tvm_schedules.compat.threads", wraps=compat.threads) as threads:
        made = compile_model(model, resolve("host"))
    assert made.wakes == wakes
    assert threads.called != wakes


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU")
def test_a_short_network_wakes_threads_when_it_is_called_often(tmp_path: Path) -> None:
    """In a process of its own: threads sleep after one call, and take part after many at once."""
    tvm_schedules.build(networks.build("mlp", 0.8), tmp_path / "mlp", "host", samples=networks.samples("mlp"))
    code = f"""
import os, time, tvm_schedules
from tvm_schedules.artifact import load_samples
inputs, _ = load_samples({str(tmp_path / "mlp")!r})
model = tvm_schedules.load({str(tmp_path / "mlp")!r}, threads=2)
def used():
    return sum(float(value) for name in os.listdir("/proc/self/task") if int(name) != os.getpid()
               for value in open(f"/proc/self/task/{{name}}/schedstat").read().split()[:1])
expected = model(*inputs[0])
before = -1
while used() != before:  # on a busy machine it takes a while until they sleep
    before = used()
    time.sleep(0.2)
for _ in range(5):
    time.sleep(0.02)
    model(*inputs[0])
assert used() == before, "a call now and then"
for _ in range(20000):
    result = model(*inputs[0])
    if used() > before:
        break
assert used() > before, "many calls at once"
assert (result == expected).all()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
