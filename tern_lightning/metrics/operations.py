"""Additions, multiplications and the score of the MicroNet challenge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from tern_lightning.functional.operations import REFERENCES, count_operations, counted_parameters, micronet_score
from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.near import meant


class Operations(Metric):
    """Additions and multiplications of all layers, zero weights left out, for one sample.

    See :func:`tern_lightning.functional.operations.count_operations`.

    Example:
        >>> import torch
        >>> metric = Operations()
        >>> metric.update(torch.ones(4, 8), positions=1)
        >>> {name: int(value) for name, value in metric.compute().items()}
        {'adds': 28, 'multiplies': 32}
    """

    is_differentiable: bool | None = False
    full_state_update: bool | None = False
    adds: Tensor
    multiplies: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("adds", "multiplies"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, weight: TernaryTensor | Tensor, positions: int, bias: bool = False, channel_axis: int = 0) -> None:
        """Add one layer; the arguments are those of the function."""
        found = count_operations(weight, positions, bias, channel_axis)
        self.adds += found.adds
        self.multiplies += found.multiplies

    def compute(self) -> dict[str, Tensor]:
        """Return ``adds`` and ``multiplies``, int64 scalars."""
        return {"adds": self.adds, "multiplies": self.multiplies}


class MicroNetScore(Metric):
    """Score of the MicroNet challenge over all layers, lower is better.

    Ternary weights count as :func:`tern_lightning.functional.operations.counted_parameters`, float ones as one each;
    additions and multiplications as their width over 32 bits.

    Args:
        reference: ``imagenet`` or ``cifar100``.
        bits: Width of the operations, 1 to 32.
        kwargs: Options of every metric.

    Raises:
        ValueError: The reference is not known, or ``bits`` is out of range.
    """

    is_differentiable: bool | None = False
    full_state_update: bool | None = False
    parameters_: Tensor
    operations: Tensor

    def __init__(self, reference: str = "cifar100", bits: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if reference not in REFERENCES:
            hint = meant(reference, REFERENCES)
            raise ValueError(f"reference must be one of {sorted(REFERENCES)}, got {reference!r}{hint}")
        if not 1 <= bits <= 32:
            raise ValueError(f"bits must be in 1 to 32, got {bits}")
        self.reference: str = reference
        self.bits: int = bits
        for name in ("parameters_", "operations"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, weight: TernaryTensor | Tensor, positions: int, bias: bool = False, channel_axis: int = 0) -> None:
        """Add one layer; the arguments are those of :func:`tern_lightning.functional.operations.count_operations`."""
        size = weight.numel() if isinstance(weight, Tensor) else counted_parameters(weight)
        self.parameters_ += size + bias * weight.shape[channel_axis]
        self.operations += count_operations(weight, positions, bias, channel_axis).total * self.bits / 32

    def compute(self) -> Tensor:
        """Return the score, a float64 scalar."""
        score = micronet_score(float(self.parameters_), float(self.operations), self.reference)
        return torch.tensor(score, dtype=torch.float64)
