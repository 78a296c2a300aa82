"""How many times smaller than in float the ternary layers are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from tern_lightning.functional.size import entropy_bytes, level_bytes, stored_bytes
from tern_lightning.ternary_tensor import TernaryTensor


class Compression(Metric):
    """Bytes of float32 over bytes of the ternary form, over all layers, levels included.

    ``entropy`` is a bound under an ideal code for every layer, ``packed`` takes two bits per weight and term,
    ``stored`` is the smallest format for every layer; see :func:`tern_lightning.functional.size.compression`.

    Example:
        >>> import torch
        >>> from tern_lightning.functional import twn
        >>> metric = Compression()
        >>> metric.update(twn(torch.randn(64, 64)))
        >>> round(metric.compute()["packed"].item(), 2)
        15.94
    """

    is_differentiable: bool | None = False
    full_state_update: bool | None = False
    dense: Tensor
    entropy: Tensor
    packed: Tensor
    stored: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("dense", "entropy", "packed", "stored"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, ternary: TernaryTensor) -> None:
        """Add one layer."""
        self.dense += 4 * ternary.codes[0].numel()
        self.entropy += entropy_bytes(ternary) + level_bytes(ternary)
        self.packed += ternary.nbytes()
        self.stored += stored_bytes(ternary)

    def compute(self) -> dict[str, Tensor]:
        """Return ``entropy``, ``packed`` and ``stored``, float64 scalars; zero before an update."""
        return {name: self.dense / getattr(self, name).clamp_min(1.0) for name in ("entropy", "packed", "stored")}
