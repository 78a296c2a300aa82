"""Kernels of graphics processors, one kernel a file: ``docs/kernel-names.md`` tells their names and parts."""
