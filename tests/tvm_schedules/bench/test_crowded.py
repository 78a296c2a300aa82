"""Latencies beside busy processes: the measurement, and that ours do not collapse there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tvm_schedules
from tvm_schedules.bench import crowded, networks
from tvm_schedules.cli import bench as command
from tvm_schedules.errors import BenchError


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crowded") / "resnet20"
    tvm_schedules.build(networks.build("resnet20", 0.8), folder, "host", samples=networks.samples("resnet20"))
    return folder


def gone(pid: int) -> bool:
    """Whether a process has ended, or is only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if all(gone(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@needs_proc
def test_busy_processes_are_busy_and_end_with_an_exception() -> None:
    with pytest.raises(RuntimeError, match="in between"), crowded.busy(2) as pids:  # noqa: PT012
        time.sleep(0.2)
        assert len(pids) == 2
        assert not any(gone(pid) for pid in pids)
        assert any(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) > 10_000_000 for pid in pids)
        raise RuntimeError("in between")
    assert wait_until_gone(pids)


@needs_proc
def test_busy_processes_end_when_the_parent_is_killed() -> None:
    code = (
        "import time\nfrom tvm_schedules.bench.crowded import busy\n"
        "with busy(2) as pids:\n    print(*pids, flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert len(pids) == 2
    assert wait_until_gone(pids)


def test_statistics() -> None:
    random = np.random.default_rng(0)
    times = {"ours": random.uniform(50, 100, (3, 400)), "other": random.uniform(200, 900, (3, 400))}
    ours, other = crowded.statistics({name: rounds.tolist() for name, rounds in times.items()})
    assert ours["ratios"] == {"median": 1.0, "p99": 1.0, "mean": 1.0}
    assert other["runs"] == 1200
    for key, function in (("median", np.median), ("p99", lambda a: np.quantile(a, 0.99)), ("mean", np.mean)):
        np.testing.assert_allclose(other[f"{key}_ms"], function(times["other"]) / 1e3, rtol=1e-12)
        np.testing.assert_allclose(other["ratios"][key], function(times["other"]) / function(times["ours"]), rtol=1e-12)


def test_the_command(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "crowded.json"
    words = [str(artifact), "--crowded", "1", "--against", "none", "--rounds", "2", "--seconds", "0.02"]
    assert command.main([*words, "--json", str(file)]) == 0
    printed, result = capsys.readouterr().out, json.loads(file.read_text())
    assert [row["name"] for row in result["engines"]] == ["tern, 1 thread", "tern, 2 threads"]
    assert all(row["runs"] >= 2 * 3 for row in result["engines"])
    assert result["busy"] == 1
    assert result["rounds"] == 2
    assert "beside 1 busy processes, 2 interleaved rounds" in printed
    assert "tern, 2 threads" in printed


@pytest.mark.parametrize("more", [["--threads", "2"], ["--csv", "x.csv"], ["--plot", "x.svg"], ["--rpc", "board:9090"]])
def test_what_does_not_go_together(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["nothing", "--crowded", "2", *more]) == 1
    assert "--crowded is for this machine" in capsys.readouterr().err


def test_a_wrong_number(artifact: Path) -> None:
    with pytest.raises(BenchError, match="at least 0, got -1"):
        crowded.crowded(artifact, -1)


@pytest.mark.skipif(sys.platform != "linux", reason="libraries have threads of their own on Linux")
def test_two_threads_on_a_busy_cpu_are_no_slower_than_one(artifact: Path) -> None:
    """All of them on one CPU: threads that waited for each other needed more than a thousand times as long."""
    code = f"""
import os, time, numpy as np, tvm_schedules
from tvm_schedules.bench.crowded import busy
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
x = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype("float32")
models = [tvm_schedules.load({str(artifact)!r}, threads=count) for count in (1, 2)]
times = [[], []]
with busy(1):
    for turn in range(10):
        for model, taken in zip(models, times):
            finish = time.perf_counter() + 0.1
            while time.perf_counter() < finish:
                start = time.perf_counter_ns()
                model(x)
                taken.append(time.perf_counter_ns() - start)
print(np.median(times[1]) / np.median(times[0]), len(times[1]) / len(times[0]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    median, rate = (float(word) for word in done.stdout.split())
    assert median < 2
    assert rate > 0.1  # other processes have their share of it
