"""Benchmarks against what a user would otherwise run."""

from tvm_schedules.bench.measure import bench

__all__ = ["bench"]
