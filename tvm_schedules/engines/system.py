"""The machine's condition, because a hot or throttled board measures itself and not the network."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from tvm_schedules.targets import host_cpu as cpu


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def machine() -> dict[str, Any]:
    """What does not change: CPU and its instruction sets, cores that may be used, memory, operating system."""
    total = next((line.split()[1] for line in (_read("/proc/meminfo") or "").splitlines() if "MemTotal" in line), None)
    features = cpu.features()
    return {
        "cpu": cpu.name(),
        "architecture": cpu.architecture(),
        "features": None if features is None else sorted(features),
        "cores": len(usable_cpus()),
        "memory_bytes": int(total) * 1024 if total else None,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def usable_cpus() -> list[int]:
    """Numbers of the CPUs that this process may use, those with the highest clock first, as TVM prefers them."""
    numbers = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)

    def slowness(number: int) -> tuple[int, int]:
        clock = _read(f"/sys/devices/system/cpu/cpu{number}/cpufreq/cpuinfo_max_freq")
        return -int(clock) if clock and clock.isdigit() else 0, number

    return sorted(numbers, key=slowness)


def condition() -> dict[str, Any]:
    """What changes: load, clocks (MHz), governors, temperatures (Celsius), throttling; None where unknown."""
    clocks, governors = [], set()
    for number in usable_cpus():
        folder = Path(f"/sys/devices/system/cpu/cpu{number}/cpufreq")
        clock = _read(folder / "scaling_cur_freq")
        if clock and clock.isdigit():
            clocks.append(int(clock) / 1000)
        governor = _read(folder / "scaling_governor")
        if governor:
            governors.add(governor)
    if not clocks:  # x86 without frequency scaling, such as a virtual machine
        lines = [line.partition(":") for line in (_read("/proc/cpuinfo") or "").splitlines()]
        clocks = [float(value) for key, _, value in lines if key.strip() == "cpu MHz"]
    temperatures = {}
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        value = _read(zone / "temp")
        if value and value.lstrip("-").isdigit():
            temperatures[_read(zone / "type") or zone.name] = int(value) / 1000
    cooling = {}
    for device in sorted(Path("/sys/class/thermal").glob("cooling_device*")):
        kind, state = _read(device / "type") or "", _read(device / "cur_state")
        if "cpu" in kind.lower() and state and state.isdigit():  # 0: runs freely; more: the clock is held down
            cooling[kind] = int(state)
    return {
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "clock_mhz": clocks or None,
        "governor": sorted(governors) or None,
        "temperature_c": temperatures or None,
        # Raspberry Pi: bits for under-voltage, capped clock, throttling, now and since start
        "throttled": _read("/sys/devices/platform/soc/soc:firmware/get_throttled"),
        "cooling": cooling or None,
    }
