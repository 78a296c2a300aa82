"""Tensors in blocks that stay in a core's cache.

A pass over a weight of megabytes costs what its memory costs, and memory that the process has not had before several
times as much as that. So what a method computes on its way is computed block by block.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 1 << 20
"""Elements of a block for every thread: four megabytes of float32, a few of which fit into a processor's last cache.

Smaller blocks are nearer to a core, but to start an operation costs as much as a hundred thousand elements.
"""

_LEAST = 1 << 14
"""Elements from which kept memory pays: the C library keeps smaller pieces by itself."""
_KEPT = threading.local()


def scratch(like: Tensor, index: int = 0, most: int | None = None) -> Tensor:
    """Memory for what is computed on the way in a block, of its shape and type, with any values.

    It is the same memory at the next call with the same index: the C library gives pieces of this size back to the
    system, and memory that has just come from there costs several times the arithmetic.

    Args:
        like: The block.
        index: Which of several that are needed at a time.
        most: The most elements that are kept; None for those of a block.
    """
    if not plain(like) or like.requires_grad or torch.jit.is_tracing():
        return torch.empty_like(like)
    if not _LEAST <= like.numel() <= (BLOCK * torch.get_num_threads() if most is None else most):
        return torch.empty_like(like)
    kept: dict[tuple[int, torch.dtype], Tensor] = _KEPT.__dict__.setdefault("memory", {})
    found = kept.get((index, like.dtype))
    if found is None or found.numel() < like.numel():
        with torch.inference_mode(False):
            found = kept[index, like.dtype] = torch.empty(like.numel(), dtype=like.dtype)
    return found[: like.numel()].view(like.shape)


def forget() -> None:
    """Give back the memory that :func:`scratch` keeps in this thread."""
    _KEPT.__dict__.pop("memory", None)


def plain(tensor: Tensor) -> bool:
    """Whether a tensor lies in this process's memory, which those of compilers and of ``torch.func`` do not."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return False
    try:
        tensor.data_ptr()
    except RuntimeError:  # a tensor of torch.func
        return False
    return True


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


def pieces(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Cut tensors of one shape in the same places; whole ones where the elements of one do not lie in order.

    Example:
        >>> import torch
        >>> [part.shape for (part,) in pieces(torch.zeros(2, 3))]
        [torch.Size([1, 6])]
    """
    if all(one.is_contiguous() for one in tensors):
        return blocks(*(one.view(1, -1) for one in tensors))
    return [tensors]


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
