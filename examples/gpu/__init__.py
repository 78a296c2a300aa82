"""Measuring graphics processors: ``python -m examples.gpu.measure``."""
