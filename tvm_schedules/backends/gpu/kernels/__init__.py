"""Kernels with thread bindings, one a file."""
