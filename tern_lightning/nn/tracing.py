"""Values that a trace of ``torch.jit`` has as constants."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def as_constant(compute: Callable[[], Tensor | None]) -> Tensor | None:
    """Compute a tensor without gradient; while ``torch.jit`` traces, without a record of how.

    The trace, and so what PyTorch's older ONNX exporter writes, has the result as a constant and none of the operators
    that made it, some of which no other program knows.
    """

    def alone() -> Tensor | None:
        with torch.no_grad():
            return compute()

    if not torch.jit.is_tracing():
        return alone()
    # PyTorch traces the operators of one thread.
    with ThreadPoolExecutor(1) as another:
        return another.submit(alone).result()
