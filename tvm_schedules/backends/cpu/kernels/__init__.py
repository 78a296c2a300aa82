"""Kernels of CPUs as templates of TIR, one kernel a file: ``docs/kernel-names.md`` tells their names and parts."""
