"""The network of the training that is killed."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn


class Net(pl.LightningModule):
    """Three linear layers; the callback keeps the first and the last one float."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(16, 256), nn.Linear(256, 256), nn.Linear(256, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of two classes."""
        return self.head(torch.relu(self.body(torch.relu(self.stem(x)))))

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Return the cross entropy of a batch."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Train by Adam."""
        return torch.optim.Adam(self.parameters(), 1e-3)
