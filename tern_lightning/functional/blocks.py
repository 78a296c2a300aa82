"""Tensors in blocks that stay in a core's cache.

A pass over a weight of megabytes costs what its memory costs, and memory that the process has not had before several
times as much as that. So what a method computes on its way is computed block by block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 1 << 18
"""Elements of a block for every thread: a megabyte of float32, which fits into a core's second cache or nearly so."""


def blocks(*rows: Tensor) -> list[tuple[Tensor, ...]]:
    """Cut tensors ``[C, n]`` in the same places: columns where there is one row, rows where there are several.

    Args:
        rows: Tensors with one number of rows. Those with one column are cut along rows only.

    Returns:
        Views, block by block; one block on devices other than CPUs, and for a compiler, which fuses by itself.

    Example:
        >>> import torch
        >>> sum(block.shape[1] for block, level in blocks(torch.zeros(1, 10_000_000), torch.zeros(1, 1)))
        10000000
    """
    height, width = rows[0].shape
    if rows[0].device.type != "cpu" or torch.compiler.is_compiling():
        return [rows]
    size = BLOCK * torch.get_num_threads()
    if height * width <= size:
        return [rows]
    if height > 1:
        return list(zip(*(one.split(max(1, size // width)) for one in rows), strict=True))
    count = -(-width // size)
    cut = (one.split(size, 1) if one.shape[1] > 1 else [one] * count for one in rows)
    return list(zip(*cut, strict=True))


def one_block(elements: int) -> bool:
    """Whether so many elements are at most a block of one thread."""
    return elements <= BLOCK


def joined(parts: Sequence[Tensor], height: int) -> Tensor:
    """Results of blocks, each ``[..., rows of the block]``, as ``[..., height]``: added where there is one row."""
    if len(parts) == 1:
        return parts[0]
    return torch.stack(list(parts)).sum(0) if height == 1 else torch.cat(list(parts), -1)


def viewed(tensor: Tensor, channel_axis: int, per_channel: bool) -> Tensor | None:
    """A tensor as ``[C, n]`` without a copy, one row for all or one per channel; None where its layout forbids it."""
    if not tensor.is_contiguous() or (per_channel and channel_axis != 0):
        return None
    return tensor.view(tensor.shape[0], -1) if per_channel else tensor.view(1, -1)


def exporting() -> bool:
    """Whether ``torch.export`` looks on, or any compiler where torch does not tell them apart."""
    found: bool = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()
    return found
