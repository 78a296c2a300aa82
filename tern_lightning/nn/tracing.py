"""Values that a trace of ``torch.jit`` has as constants, and what is kept from all tracers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from tern_lightning.functional.blocks import exporting

Value = TypeVar("Value")


def as_constant(compute: Callable[[], Tensor | None]) -> Tensor | None:
    """Compute a tensor without gradient; while ``torch.jit`` traces, without a record of how.

    The trace, and so what PyTorch's older ONNX exporter writes, has the result as a constant and none of the operators
    that made it, some of which no other program knows.
    """

    def alone() -> Tensor | None:
        with torch.no_grad():
            return compute()

    return unseen(alone) if torch.jit.is_tracing() else alone()


def unseen(compute: Callable[[], Value]) -> Value:
    """Compute something of real tensors that outlives a trace, so that no tracer records it.

    While ``torch.export`` looks on, results would be tensors without values, and whoever keeps them computes nonsense
    ever after.
    """
    if not (torch.jit.is_tracing() or exporting()):
        return compute()
    # PyTorch traces the operators of one thread.
    with ThreadPoolExecutor(1) as another:
        return another.submit(compute).result()
