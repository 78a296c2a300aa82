"""CPUs that may be used and the machine's condition, as the system states them."""

from __future__ import annotations

import pytest

from tvm_schedules.engines import system


def test_fast_cores_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an RK3588, whose first four CPUs are the slow ones."""
    clocks = {number: "1800000" if number < 4 else "2400000" for number in range(8)}
    monkeypatch.setattr(system.os, "sched_getaffinity", lambda process: set(clocks))
    monkeypatch.setattr(system, "_read", lambda path: clocks[int(str(path).split("/cpu/cpu")[1].split("/")[0])])
    assert system.usable_cpus() == [4, 5, 6, 7, 0, 1, 2, 3]


def test_condition_reads_what_the_system_states() -> None:
    found = system.condition()
    assert found.keys() == {"load", "clock_mhz", "governor", "temperature_c", "throttled", "cooling"}
    assert system.machine()["cores"] >= 1
