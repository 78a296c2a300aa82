"""Threads that are linked into libraries: by themselves, and as artifacts use them."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import tvm_schedules
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Net
from tvm_schedules import compat
from tvm_schedules.backends import toolchain as linking
from tvm_schedules.backends.cpu import quota, threads
from tvm_schedules.bench import networks
from tvm_schedules.targets.registry import resolve

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
HERE = Path(__file__).parent
SANITIZERS = ("undefined", "address", "thread")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="libraries have threads of their own on Linux")


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize(("sanitizer", "option"), [(s, f"-D{o}") for s in SANITIZERS for o in ("LINUX", "NO_FUTEX")])
def test_alone(tmp_path: Path, sanitizer: str, option: str) -> None:
    """Programs of loops that need each other's results, callers, a fork, under a race detector too."""
    for cpu, clock in enumerate([1800000, 2400000]):
        (tmp_path / f"clock{cpu}").write_text(f"{clock}\n")
    clocks = f'-DCPU_FREQUENCY="{tmp_path}/clock%d"'
    options = [
        "-O1",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
        f"-fsanitize={sanitizer}",
        option,
        clocks,
        "-DCPUS=2",
    ]
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
    loaded["tern_workers"](4, 0)
    loaded["tern_main"](*model._whole)
    assert tasks() == before + 3
    for wrong in (-1, 129, 10**12):
        with pytest.raises(ValueError, match=f"between 0 and 128, got {wrong}"):
            loaded["tern_workers"](wrong, 0)
    with pytest.raises(TypeError, match="integers"):
        loaded["tern_workers"](2.0, 0)
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


def test_a_fork_in_the_middle_of_another_threads_call(artifact: Path) -> None:
    """The child has neither that thread nor what it had taken: locks and the pool."""
    model = tvm_schedules.load(artifact, threads=2)
    x = np.random.default_rng(3).normal(size=(1, 3, 32, 32)).astype("float32")
    expected, stop = model(x), threading.Event()

    def call() -> None:
        while not stop.is_set():
            model(x)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        taken = 0
        for _ in range(200):
            if taken == 5:
                break
            child = os.fork()
            if not child:
                signal.alarm(30)  # ends a child that hangs
                os._exit(0 if np.array_equal(model(x), expected) else 1)
            taken += model._lock.locked()  # type: ignore[attr-defined]
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        caller.join()
    assert taken


@pytest.mark.parametrize("target", ["host", "c"])
@pytest.mark.parametrize("count", [1, 2])
def test_the_end_of_the_interpreter_waits_for_calls(artifact: Path, tmp_path: Path, target: str, count: int) -> None:
    """Python stops threads on their way back from a library, by means that end the process where C++ is in between."""
    if target == "c":
        artifact = tmp_path / "c"
        tvm_schedules.build(networks.build("mlp", 0.8), artifact, "c", samples=networks.samples("mlp"))
    code = f"""
import atexit, sys, threading, time, numpy as np, tvm_schedules
model = tvm_schedules.load({str(artifact)!r}, threads={count})
x = np.zeros(model.inputs[0]["shape"], "float32")
calls = 0
def call():
    global calls
    while True:
        model(x)
        calls += 1
atexit.register(lambda: (model(x), print("the end's own call")))
for _ in range(3):
    threading.Thread(target=call, daemon=True).start()
while calls < 20:
    time.sleep(0.001)
sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 7, done.stderr
    assert done.stdout == "the end's own call\n"


QUOTAS = {
    "no group": ({"groups": "0::/\n"}, None),
    "version 2": ({"groups": "0::/a/b\n", "root/a/b/cpu.max": "200000 100000\n"}, 2),
    "no limit": ({"groups": "0::/a\n", "root/a/cpu.max": "max 100000\n"}, None),
    "one and a half": ({"groups": "0::/\n", "root/cpu.max": "150000 100000\n"}, 1),
    "half": ({"groups": "0::/\n", "root/cpu.max": "50000 100000\n"}, 1),
    "the group around it": ({"groups": "0::/a/b\n", "root/a/b/cpu.max": "max 1\n", "root/a/cpu.max": "300 100\n"}, 3),
    "the lesser of two": ({"groups": "0::/a/b\n", "root/a/b/cpu.max": "500 100\n", "root/a/cpu.max": "300 100\n"}, 3),
    "version 1": (
        {"groups": "3:cpu,cpuacct:/a\n2:memory:/m\n", "root/cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n"}
        | {"root/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
        2,
    ),
    "the host's path in a container": (
        {"groups": "3:cpu:/docker/0123\n", "root/cpu/cpu.cfs_quota_us": "400000\n"}
        | {"root/cpu/cpu.cfs_period_us": "100000\n"},
        4,
    ),
    "version 1 without a limit": (
        {"groups": "3:cpu:/\n", "root/cpu/cpu.cfs_quota_us": "-1\n", "root/cpu/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "another controller": ({"groups": "3:cpuset:/\n", "root/cpu/cpu.cfs_quota_us": "1\n"}, None),
    "not a number": ({"groups": "0::/\nnonsense\n", "root/cpu.max": "many few\n"}, None),
    "nothing": ({}, None),
}


@pytest.fixture(scope="module")
def quota_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prints the quota that the part in C finds, with the files in a folder that it is started in."""
    if COMPILER is None:
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("quota") / "check"
    options = ["-pthread", '-DCGROUPS="root"', '-DOWN_CGROUPS="groups"', f"-I{linking.THREADS.parent}"]
    subprocess.run([COMPILER, *options, str(HERE / "threads_check.c"), "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize("name", QUOTAS)
def test_quotas_of_control_groups(quota_program: Path, tmp_path: Path, name: str) -> None:
    """In Python and in C."""
    files, expected = QUOTAS[name]
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert quota.cpus(tmp_path / "groups", tmp_path / "root") == expected
    printed = subprocess.run([str(quota_program), "quota"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(printed.stdout) == (-1 if expected is None else expected)


def test_the_usual_number_is_within_quota_and_affinity() -> None:
    with mock.patch.object(threads, "_SETTING", ""):
        for limit, cpus, expected in ((None, {0, 1}, 2), (1, {0, 1}, 1), (8, {0, 1}, 2), (8, {0}, 1)):
            threads._cores.cache_clear()
            with (
                mock.patch.object(quota, "cpus", return_value=limit),
                mock.patch("os.sched_getaffinity", return_value=cpus),
                mock.patch.object(Path, "read_text", side_effect=OSError),  # CPUs are cores
            ):
                assert threads.default_threads() == expected
    threads._cores.cache_clear()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or os.cpu_count() == 1, reason="there is no choice of CPUs")
def test_a_call_leaves_the_program_on_its_cpus(tmp_path: Path) -> None:
    """Also where operators are TVM's, which by itself binds the calling thread, and what it starts later."""
    net = Net((1, 40, 33))
    y = net.op("Relu", net.op("Conv", "input_0", net.weight((24, 40, 3), 0.8)))
    tvm_schedules.build(net.model(net.op("CumSum", y, net.const(np.array(1)))), tmp_path / "net", "host")
    code = f"""
import os, numpy, tvm_schedules
os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
before = os.sched_getaffinity(0)
for count in (1, 2, None):
    tvm_schedules.load({str(tmp_path / "net")!r}, threads=count)(numpy.ones((1, 40, 33), numpy.float32))
    assert os.sched_getaffinity(0) == before, count
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_libraries_of_before_keep_threads_of_their_own(artifact: Path) -> None:
    """Their pools are of another kind: neither gets the other's."""
    handed: list[tuple[str, int, int]] = []

    class Library:
        def __init__(self, name: str, pool: int) -> None:
            self.name, self.pool = name, pool

        def __getitem__(self, name: str) -> Any:
            if name != self.name:
                raise AttributeError(name)

            def function(count: int, pool: int) -> int:
                handed.append((name, count, pool))
                return self.pool

            return function

    with mock.patch.dict(threads._first, clear=True), mock.patch.object(threads, "_here", threading.local()):
        for name, pool in (("tern_workers", 1), ("tern_threads", 2), ("tern_workers", 3), ("tern_threads", 4)):
            threads.setter(Library(name, pool))(2)
    pools = [(name, pool) for name, count, pool in handed if pool]
    assert pools == [("tern_workers", 1), ("tern_threads", 2), ("tern_workers", 1), ("tern_threads", 2)]


def test_a_fork_runs_with_threads(artifact: Path) -> None:
    model = tvm_schedules.load(artifact, threads=2)
    x = np.random.default_rng(2).normal(size=(1, 3, 32, 32)).astype("float32")
    expected = model(x)
    child = os.fork()
    if not child:
        os._exit(0 if np.array_equal(model(x), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def counting(tmp_path: Path) -> Any:
    """A library of a kernel in which each of so many jobs adds 1 to a number of its own; one of them may fail."""

    def make(count: int, fails: int = -1) -> Any:
        import tvm

        def write(e: compat.Emitter, out: Any) -> None:
            numbers = e.view(out, count, "int32")
            with e.jobs(count, parallel=True) as job:
                if fails >= 0:
                    with e.b.Assert(e.t.NE(job, e.integer(fails)), "a wrong job"):
                        pass
                e.store(numbers, job, e.load(numbers, job) + 1)

        kernel, variable = compat.kernel_function([("out", "int32")], write), compat.global_var("count")

        def body(e: compat.Emitter, out: Any) -> None:
            with compat.threads(own=True) as loop:
                for _ in range(3):
                    compat.call_private(variable, kernel, [out.data], loop)

        main = compat.main_function("main", [("out", (count,), "int32")], [], body)
        module = compat.build_module({"0": (variable, kernel)}, main, resolve("host").tvm)
        path = tmp_path / f"count{count}_{fails}.so"
        linking.export_library(module, path, None)
        library = tvm.runtime.load_module(str(path))
        threads.setter(library)(2)
        return library["main"]

    return make


@pytest.mark.parametrize("count", [1, 2, 7, 32767, 32768, 70001])
def test_every_job_is_done_once(counting: Any, count: int) -> None:
    """Also where there are more than the number of a range can hold."""
    out = compat.tensor(np.zeros(count, np.int32))
    function = counting(count)
    for _ in range(10):
        function(out)
    np.testing.assert_array_equal(out.numpy(), np.full(count, 30))


@pytest.mark.parametrize("fails", [0, 5, 8])
def test_a_job_that_fails_is_an_error_of_the_call(counting: Any, fails: int) -> None:
    function, out = counting(9, fails), compat.tensor(np.zeros(9, np.int32))
    for _ in range(10):
        with pytest.raises(RuntimeError, match=r"a wrong job|a thread of a parallel loop failed"):
            function(out)
    assert out.numpy()[fails] == 0


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
    with mock.patch("tvm_schedules.compat.threads", wraps=compat.threads) as shared:
        made = compile_model(model, resolve("host"))
    assert made.wakes == wakes
    assert shared.called != wakes


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
for _ in range(400):
    for _ in range(50):  # to ask takes longer than there may be between calls
        result = model(*inputs[0])
    if used() > before:
        break
assert used() > before, "many calls at once"
assert (result == expected).all()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
