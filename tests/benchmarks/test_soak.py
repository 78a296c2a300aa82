"""The soak test itself: that it sees what grows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import tvm_schedules
from benchmarks import soak
from tests.tvm_schedules import fake

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


@needs_proc
def test_a_short_run(fake_compiler: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tvm_schedules.build(fake.model(), tmp_path / "net", "host")
    assert soak.main([str(tmp_path / "net"), "--calls", "450", "--every", "100", "--threads", "1"]) == 0
    _, *lines, verdict = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in lines] == [100, 200, 300, 400, 450]
    assert all(int(line.split()[1]) > 10_000 for line in lines)  # KiB of a process with numpy and TVM
    assert verdict == "nothing grew after the first tenth"


@needs_proc
def test_memory_is_the_kernels_number() -> None:
    before = soak.sample(1, [1])
    kept = bytearray(b"x" * (64 << 20))
    after = soak.sample(2, [3, 1, 2])
    assert 60 << 20 <= after.rss - before.rss <= 80 << 20
    assert (after.us, after.worst) == (0.002, 0.003)
    assert len(kept) == 64 << 20


def test_what_grows() -> None:
    """In the first tenth it may."""
    constant = [soak.Sample(calls, 50 << 20, 3, 9, 70.0, 100.0) for calls in range(100, 1100, 100)]
    assert soak.growth(constant) == []
    assert soak.growth([replace(constant[0], calls=50, rss=1 << 20), *constant]) == []
    for what in ("rss", "threads", "files"):
        grown = [replace(entry, **{what: getattr(entry, what) * entry.calls}) for entry in constant]
        (told,) = soak.growth(grown)
        assert told.startswith({"rss": "memory", "threads": "threads", "files": "open files"}[what])
