"""The machine's condition, because a hot or throttled board measures itself and not the network."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from tvm_schedules import cpu


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def machine() -> dict[str, Any]:
    """What does not change: CPU, number of cores that may be used, memory, operating system."""
    total = next((line.split()[1] for line in (_read("/proc/meminfo") or "").splitlines() if "MemTotal" in line), None)
    return {
        "cpu": cpu.name(),
        "architecture": cpu.architecture(),
        "cores": len(usable_cpus()),
        "memory_bytes": int(total) * 1024 if total else None,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def usable_cpus() -> list[int]:
    """Numbers of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def condition() -> dict[str, Any]:
    """What changes: load, clocks (MHz), governors, temperatures (Celsius), throttling; None where it is not told."""
    clocks, governors = [], set()
    for number in usable_cpus():
        folder = Path(f"/sys/devices/system/cpu/cpu{number}/cpufreq")
        clock = _read(folder / "scaling_cur_freq")
        if clock and clock.isdigit():
            clocks.append(int(clock) / 1000)
        governor = _read(folder / "scaling_governor")
        if governor:
            governors.add(governor)
    temperatures = {}
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        value = _read(zone / "temp")
        if value and value.lstrip("-").isdigit():
            temperatures[_read(zone / "type") or zone.name] = int(value) / 1000
    return {
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "clock_mhz": clocks or None,
        "governor": sorted(governors) or None,
        "temperature_c": temperatures or None,
        # Raspberry Pi: bits for under-voltage, capped clock, throttling, now and since start
        "throttled": _read("/sys/devices/platform/soc/soc:firmware/get_throttled"),
    }
