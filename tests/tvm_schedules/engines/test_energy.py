"""Power from sensors, with files in place of the system's."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tvm_schedules.bench.measure import _energy
from tvm_schedules.engines.energy import Meter


def put(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")
    return path


def package(root: Path, number: int, joules: float, span: int = 0) -> Path:
    zone = root / "powercap" / f"intel-rapl:{number}"
    put(zone / "name", f"package-{number}")
    put(zone / "max_energy_range_uj", span)
    return put(zone / "energy_uj", int(joules * 1e6))


def test_counters_of_all_packages_are_added_without_their_parts(tmp_path: Path) -> None:
    first, second = package(tmp_path, 0, 100.0), package(tmp_path, 1, 7.0, span=8_000_000)
    part = put(tmp_path / "powercap" / "intel-rapl:0:0" / "energy_uj", 0)
    put(part.with_name("name"), "core")
    put(tmp_path / "powercap" / "intel-rapl:2" / "name", "psys")
    meter = Meter(tmp_path)
    assert meter.sensor == "RAPL, 2 packages"
    meter.start()
    began = time.perf_counter()
    put(part, 10**12)
    put(first, 103_000_000)
    put(second, 500_000)  # one joule to the end, half a joule since
    time.sleep(0.05)
    watts = meter.stop()
    assert watts is not None
    assert watts * (time.perf_counter() - began) == pytest.approx(4.5, rel=0.2)


def test_a_counter_for_the_administrator_is_said_so(tmp_path: Path) -> None:
    package(tmp_path, 0, 1.0).unlink()
    meter = Meter(tmp_path)
    assert meter.sensor is None
    assert "only the administrator" in str(meter.reason)
    meter.start()
    assert meter.stop() is None


def monitor(root: Path, rails: dict[str, tuple[int, int]]) -> Path:
    device = root / "hwmon" / "hwmon3"
    put(device / "name", "ina3221")
    for number, (label, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
        put(device / f"in{number}_label", label)
        put(device / f"in{number}_input", millivolts)
        put(device / f"curr{number}_input", milliamperes)
    return device


def test_a_board_s_rail_is_sampled(tmp_path: Path) -> None:
    put(tmp_path / "hwmon" / "hwmon0" / "name", "nvme")
    device = monitor(tmp_path, {"VDD_IN": (5000, 1000), "VDD_CPU": (5000, 400)})
    meter = Meter(tmp_path)
    assert meter.sensor == "ina3221, VDD_IN"
    meter.start()
    time.sleep(0.05)
    put(device / "curr1_input", 3000)
    time.sleep(0.1)
    watts = meter.stop()
    assert watts is not None
    assert 5.0 < watts < 15.0
    assert threading.active_count() < 20


def test_rails_without_a_whole_one_are_added(tmp_path: Path) -> None:
    monitor(tmp_path, {"A": (5000, 1000), "B": (3000, 2000)})
    meter = Meter(tmp_path)
    meter.start()
    assert meter.stop() == pytest.approx(11.0)


def test_a_monitor_of_one_power(tmp_path: Path) -> None:
    put(tmp_path / "hwmon" / "hwmon1" / "name", "ina219")
    put(tmp_path / "hwmon" / "hwmon1" / "power1_input", 2_500_000)
    meter = Meter(tmp_path)
    meter.start()
    assert meter.stop() == pytest.approx(2.5)


def test_a_sensor_that_fails_gives_nothing(tmp_path: Path) -> None:
    device = monitor(tmp_path, {"VDD_IN": (5000, 1000)})
    meter = Meter(tmp_path)
    put(device / "curr1_input", "?")
    meter.start()
    assert meter.stop() is None


def test_a_machine_without_sensors_says_so(tmp_path: Path) -> None:
    meter = Meter(tmp_path)
    assert (meter.sensor, meter.reason) == (None, "neither RAPL counters nor an INA power monitor")


def test_energy_is_power_times_the_median_latency() -> None:
    assert _energy([4.0, 6.0], [[1000.0, 2000.0], [3000.0]]) == {"watts": 5.0, "millijoules": 10.0}
    assert _energy([], [[1.0]]) == {"watts": None, "millijoules": None}
