"""Kernels as C, one kernel a file: ``docs/kernel-names.md`` tells their names and parts."""
