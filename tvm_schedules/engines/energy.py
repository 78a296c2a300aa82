"""Watts while something runs, from the sensors that a machine has: RAPL counters, or INA power monitors of boards.

It imports the standard library alone and is loaded by its path where this package is not installed.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

EVERY = 0.02
"""Seconds from one look at a power monitor to the next; counters are read before and after only."""
WHOLE = ("VDD_IN", "POM_5V_IN", "VDD_IN_SYS_5V0")
"""Labels of the rail that feeds a whole board (Jetson)."""


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text and text.lstrip("-").isdigit() else None


class Meter:
    """Measures the mean power of the machine between :meth:`start` and :meth:`stop`.

    Args:
        root: Where the system shows its devices.

    Attributes:
        sensor: What is read, in words, or None.
        reason: Why there is nothing to read, in words, or None.
    """

    def __init__(self, root: str | os.PathLike[str] = "/sys/class") -> None:
        self.sensor: str | None = None
        self.reason: str | None = "neither RAPL counters nor an INA power monitor"
        self._counters: list[tuple[Path, int]] = []
        self._watts: Callable[[], float | None] | None = None
        self._find_counters(Path(root) / "powercap")
        if self.sensor is None:
            self._find_monitor(Path(root) / "hwmon")
        if self.sensor is not None:
            self.reason = None

    def _find_counters(self, folder: Path) -> None:
        """Counters of all packages; the parts of a package are counted in it."""
        for zone in sorted(folder.glob("*-rapl:*")):
            if zone.name.count(":") != 1 or not (_read(zone / "name") or "").startswith("package"):
                continue
            if _number(zone / "energy_uj") is None:
                self.reason = f"{zone / 'energy_uj'} cannot be read; only the administrator may by default"
                continue
            self._counters.append((zone / "energy_uj", _number(zone / "max_energy_range_uj") or 0))
        if self._counters:
            self.sensor = f"RAPL, {len(self._counters)} package{'s' if len(self._counters) > 1 else ''}"

    def _find_monitor(self, folder: Path) -> None:
        """The rail of the whole board where one is named so, otherwise all rails of a monitor together."""
        for device in sorted(folder.glob("hwmon*")):
            name = _read(device / "name") or ""
            if not name.startswith("ina"):
                continue
            rails = {}
            for voltage in sorted(device.glob("in*_input")):
                number = voltage.name[2:].partition("_")[0]
                current = device / f"curr{number}_input"
                if current.exists():
                    rails[_read(device / f"in{number}_label") or f"rail {number}"] = (voltage, current)
            chosen = {label: rails[label] for label in WHOLE if label in rails} or rails
            powers = [] if rails else sorted(device.glob("power*_input"))
            if chosen or powers:
                self._watts = functools.partial(_power, tuple(chosen.values()), tuple(powers))
                self.sensor = f"{name}, {', '.join(chosen) or 'power'}"
                return

    def _count(self) -> list[int | None]:
        return [_number(path) for path, _ in self._counters]

    def start(self) -> None:
        """Begin."""
        self._began, self._before = time.perf_counter(), self._count()
        self._samples: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True) if self._watts else None
        if self._thread:
            self._thread.start()

    def _sample(self) -> None:
        assert self._watts is not None
        while True:
            value = self._watts()
            if value is not None:
                self._samples.append(value)
            if self._over.wait(EVERY):
                return

    def stop(self) -> float | None:
        """End.

        Returns:
            Watts since :meth:`start`, None where no sensor answered.
        """
        seconds = time.perf_counter() - self._began
        if self._thread:
            self._over.set()
            self._thread.join()
            return sum(self._samples) / len(self._samples) if self._samples else None
        used = 0
        for (_, span), before, after in zip(self._counters, self._before, self._count(), strict=True):
            if before is None or after is None:
                return None
            used += after - before if after >= before else after - before + span  # the counter has begun anew
        return used / 1e6 / seconds if self._counters and seconds > 0 else None


def _power(rails: tuple[tuple[Path, Path], ...], powers: tuple[Path, ...]) -> float | None:
    """Watts of rails by millivolts and milliamperes, or of files with microwatts."""
    pairs = [(_number(voltage), _number(current)) for voltage, current in rails]
    own = [_number(path) for path in powers]
    if any(value is None for pair in pairs for value in pair) or any(value is None for value in own):
        return None
    return sum((v or 0) * (a or 0) for v, a in pairs) / 1e6 + sum(value or 0 for value in own) / 1e6
