"""Whatever the compiler's process does, the user's goes on, with an error that says why and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tvm_schedules
from tests.tvm_schedules import fake
from tvm_schedules.artifact import process
from tvm_schedules.errors import CompilerError, ModelError, install_hint

ROOT = Path(__file__).parents[3]
USUAL = process.START


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Let the compiler's process do what a function of :mod:`.stub_child` does."""

    def install(kind: str) -> None:
        where = USUAL.index("from tvm_schedules")
        there = f"from tests.tvm_schedules.artifact import stub_child; stub_child.install({kind!r}); "
        monkeypatch.setattr(process, "START", USUAL[:where] + there + USUAL[where:])

    process._kill_idle()  # of other tests
    yield install
    process._kill_idle()


def gone(number: int, seconds: float = 20.0) -> bool:
    """Whether a process ends in so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True  # dead; its parent has only not asked
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_jobs_share_a_process_which_goes_where_its_parent_goes(
    stub: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub("fine")
    lines: list[str] = []
    first = tvm_schedules.build(fake.model(), tmp_path / "a", progress=lines.append).metadata
    assert lines == ["said"]
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    monkeypatch.setenv("MARK", "set since")
    second = tvm_schedules.build(fake.model(), tmp_path / "b").metadata
    assert second == {"pid": first["pid"], "directory": str(tmp_path / "there"), "mark": "set since"}
    assert sorted(os.listdir(tmp_path / "b")) == ["model.onnx", "model.so"]


def test_an_idle_process_that_has_ended_is_replaced(stub: Callable[[str], None], tmp_path: Path) -> None:
    stub("fine")
    number = tvm_schedules.build(fake.model(), tmp_path / "a").metadata["pid"]
    os.kill(number, signal.SIGKILL)
    assert gone(number)
    assert tvm_schedules.build(fake.model(), tmp_path / "b").metadata["pid"] != number


def test_builds_in_threads_have_a_process_each(stub: Callable[[str], None], tmp_path: Path) -> None:
    stub("fine")
    found: list[int] = []

    def build(name: str) -> None:
        found.append(tvm_schedules.build(fake.model(), tmp_path / name).metadata["pid"])

    threads = [threading.Thread(target=build, args=(str(index),)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2"]
    assert len(process._idle) == 1
    kept = next(iter(process._idle.values()))._process.pid
    assert all(gone(number) for number in found if number != kept)


def test_an_abort_is_an_error_with_the_last_words(stub: Callable[[str], None], tmp_path: Path) -> None:
    stub("abort")
    with pytest.raises(CompilerError, match=r"ended by SIGABRT, nothing was changed; its last words: LLVM ERROR: IO"):
        tvm_schedules.build(fake.model(), tmp_path / "out")
    assert not os.listdir(tmp_path)
    stub("fine")
    tvm_schedules.build(fake.model(), tmp_path / "out")


def test_a_process_without_memory(stub: Callable[[str], None], tmp_path: Path) -> None:
    stub("hang")
    with pytest.raises(CompilerError, match="ended by SIGKILL, as when the system has no memory left"):
        tvm_schedules.build(fake.model(), tmp_path / "out", progress=lambda line: os.kill(int(line.split()[0]), 9))
    assert not os.listdir(tmp_path)


def test_unforeseen_errors_and_missing_packages(stub: Callable[[str], None], tmp_path: Path) -> None:
    stub("fault")
    with pytest.raises(CompilerError, match="a fault of this package: KeyError: 'a fault of ours'") as caught:
        tvm_schedules.build(fake.model(), tmp_path / "out")
    assert "stub_child.py" in str(caught.value.__cause__)
    stub("refusal")
    with pytest.raises(ModelError, match=r"\Ano such operator\Z") as known:
        tvm_schedules.build(fake.model(), tmp_path / "out")
    assert known.value.__cause__ is None  # the message says it all, and a traceback of the child would hide it
    stub("lacking")
    with pytest.raises(ModuleNotFoundError) as missing:
        tvm_schedules.build(fake.model(), tmp_path / "out")
    assert "'no_such_package_at_all' is missing" in install_hint(missing.value)
    assert not os.listdir(tmp_path)


def test_an_interruption_ends_the_compiler_and_the_linker(stub: Callable[[str], None], tmp_path: Path) -> None:
    stub("hang")
    numbers: list[int] = []

    def interrupt(line: str) -> None:
        numbers.extend(map(int, line.split()))
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        tvm_schedules.build(fake.model(), tmp_path / "out", progress=interrupt)
    assert len(numbers) == 2
    assert all(map(gone, numbers))
    assert not os.listdir(tmp_path)


SCRIPT = """
    import os, sys, time
    from tests.tvm_schedules import fake
    from tvm_schedules.artifact import output_folder, process
    import tvm_schedules
    where = process.START.index("from tvm_schedules")
    stub = f"from tests.tvm_schedules.artifact import stub_child; stub_child.install({sys.argv[2]!r}); "
    process.START = process.START[:where] + stub + process.START[where:]

    def commit(folder, target):
        print(next(iter(process._idle.values()))._process.pid, flush=True)
        time.sleep(600)

    def accepts(self, job):
        print(self._process.pid, flush=True)
        if sys.argv[2] == "early":
            time.sleep(600)
        return usual(self, job)

    output_folder._commit = commit
    if sys.argv[2] in ("early", "slow"):
        usual, process.Compiler.accepts = process.Compiler.accepts, accepts
    say = (lambda line: print(line, flush=True)) if sys.argv[2] == "hang" else None
    tvm_schedules.build(fake.model(), sys.argv[1], progress=say)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("when", ["early", "slow", "hang", "fine"])
def test_a_build_whose_process_is_ended_leaves_nothing(when: str, how: signal.Signals, tmp_path: Path) -> None:
    """No handler runs in a process that SIGTERM or SIGKILL ends: the compiler's process cleans up behind it.

    So before it has a job, while it imports TVM, while it compiles, and while the result is put in its place.
    """
    script = tmp_path / "user.py"  # without "if __name__", as users write it
    script.write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "place").mkdir()
    command = [sys.executable, str(script), str(tmp_path / "place" / "out"), when]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as user:
        assert user.stdout is not None
        numbers = [int(word) for word in user.stdout.readline().split()]
        if when == "slow":
            time.sleep(0.3)  # the job is sent
        assert any(name.startswith(".out.tern-new-") for name in os.listdir(tmp_path / "place"))
        user.send_signal(how)
        user.wait(20)
    assert len(numbers) == (2 if when == "hang" else 1)
    assert all(map(gone, numbers))
    assert not os.listdir(tmp_path / "place")


def test_an_idle_process_ends_by_itself(stub: Callable[[str], None], tmp_path: Path) -> None:
    stub("fine")
    process.START = process.START.replace("import main;", "import main; child.IDLE = 0.2;").replace(
        "from tvm_schedules.artifact.child",
        "from tvm_schedules.artifact import child; from tvm_schedules.artifact.child",
    )
    number = tvm_schedules.build(fake.model(), tmp_path / "a").metadata["pid"]
    assert gone(number)
    assert next(iter(process._idle.values()))._process.wait(5) == 0


def test_a_fork_has_a_process_of_its_own(stub: Callable[[str], None], tmp_path: Path) -> None:
    stub("fine")
    first = tvm_schedules.build(fake.model(), tmp_path / "a").metadata["pid"]
    number = os.fork()
    if number == 0:
        status = 1
        try:
            second = tvm_schedules.build(fake.model(), tmp_path / "b").metadata["pid"]
            process._kill_idle()
            status = 0 if second != first else 2
        finally:
            os._exit(status)
    assert os.waitpid(number, 0)[1] == 0
    assert tvm_schedules.build(fake.model(), tmp_path / "c").metadata["pid"] == first


FULL = """
    import os, resource, sys
    from tests.tvm_schedules import artifact_nets
    import tvm_schedules
    os.environ["TMPDIR"] = "/dev/null"  # no room there either
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, resource.RLIM_INFINITY))  # of an object file of 20,000
    try:
        tvm_schedules.build(artifact_nets.conv_net(), sys.argv[1])
    except tvm_schedules.errors.CompilerError as error:
        print(error)
"""


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    """The real compiler under a limit of the size of files, which LLVM meets as it meets a full disk."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").write_bytes(b"earlier")
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing was changed; its last words: LLVM ERROR: IO failure on output stream: File too" in done.stdout
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["model.onnx"]
    assert (tmp_path / "out" / "model.onnx").read_bytes() == b"earlier"


def test_nobody_waits_for_a_process_that_was_prepared_for_nothing(stub: Callable[[str], None]) -> None:
    stub("fine")
    process.prepare()
    (found,) = process._idle.values()
    process.prepare()
    assert list(process._idle.values()) == [found]
    process._kill_idle()
    assert not process._idle
    assert gone(found._process.pid)
