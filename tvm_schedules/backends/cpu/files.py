"""Names of the files that a network becomes for a CPU."""

from __future__ import annotations

__all__ = ["LIBRARY", "PROBE"]

LIBRARY = "model.so"
PROBE = "probe.so"
"""What the machine can do at best, see :mod:`tvm_schedules.backends.cpu.probe`."""
