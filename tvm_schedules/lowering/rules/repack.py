"""Copies of a tensor into another layout or type: what they depend on. The lowering asks for them by itself."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod

import numpy as np

from tvm_schedules.ir.graph import Graph
from tvm_schedules.ir.layout import Halo
from tvm_schedules.lowering.layouts import view

__all__ = ["NAME", "Spec", "Strided", "flat", "strided"]

NAME = "repack"
"""What artifacts and tuning databases call this kernel."""


@dataclass(frozen=True)
class Strided:
    """A plain tensor seen as ``[N, C, D, H, W]`` with the given strides in elements."""

    batch: int
    channels: int
    dims: tuple[int, int, int]
    dtype: str
    strides: tuple[int, int, int, int, int]
    elements: int


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        source: Layout that is read.
        target: Layout that is written.
        vector: Bytes a vector register.
        parallel: Whether threads share the jobs.
        fma: Whether the target multiplies and adds with one rounding in one instruction.
        arch: Architecture whose instructions may be called by name: ``aarch64``, ``x86_64``, others are as none.
    """

    source: Halo | Strided
    target: Halo | Strided
    vector: int
    parallel: bool
    fma: bool = False
    arch: str = ""


def strided(graph: Graph, name: str, rows: bool) -> Strided:
    """A plain tensor seen as planes; with ``rows`` its last dimension is the channels."""
    value = graph.values[name]
    batch, channels, dims = view(graph, name, rows)
    pixels = prod(dims)
    strides = (0, 1, 0, 0, channels) if rows else (channels * pixels, pixels, dims[1] * dims[2], dims[2], 1)
    return Strided(batch, channels, dims, value.dtype, strides, max(1, prod(value.shape)))


def flat(graph: Graph, name: str) -> Strided:
    """A plain tensor seen as rows of equal length, in the order of memory."""
    value = graph.values[name]
    total, dtype = max(1, prod(value.shape)), value.dtype
    if dtype not in ("float32", "uint8"):  # copied as bytes, never converted
        total, dtype = total * np.dtype(dtype).itemsize, "uint8"
    rows = gcd(total, 64)
    return Strided(1, rows, (1, 1, total // rows), dtype, (0, total // rows, 0, 0, 1), total)
