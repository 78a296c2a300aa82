"""Benchmarks against what a user would otherwise run."""

from tvm_schedules.bench.measure import Request, bench

__all__ = ["Request", "bench"]
