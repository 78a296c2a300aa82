"""Measuring graphics processors: ``python -m benchmarks.gpu.measure``."""
