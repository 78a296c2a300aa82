"""Blocks of output channels that are alike, in place of neighbors: what rearranging a network before training gives.

No network is rearranged for it: kernels find channels that share their zeros wherever they stand.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from tern_lightning import PruningSchedule
from tern_lightning.functional.patterns import keep_largest


def alike(rows: Tensor, group: int) -> Tensor:
    """An order of rows in which those of a group have their large weights at the same places.

    The two rows whose magnitudes have the largest cosine become a pair, then the next two of the others; pairs become
    fours in the same way.

    Args:
        rows: ``[channels, weights]``.
        group: Rows of a group, a power of two; the last groups are smaller where it does not divide the channels.

    Returns:
        ``[channels]``, int64.
    """
    members, magnitudes = [[row] for row in range(len(rows))], list(rows.abs())
    while len(members[0]) < group:
        unit = torch.nn.functional.normalize(torch.stack(magnitudes), dim=1)
        nearness = (unit @ unit.T).triu(1) - 2 * torch.ones(len(unit), len(unit)).tril()
        left, pairs = set(range(len(members))), []
        for place in nearness.flatten().argsort(descending=True, stable=True).tolist():
            first, second = divmod(place, len(members))
            if first < second and {first, second} <= left:
                left -= {first, second}
                pairs.append((first, second))
        joined = [members[a] + members[b] for a, b in pairs] + [members[a] for a in sorted(left)]
        magnitudes = [magnitudes[a] + magnitudes[b] for a, b in pairs] + [magnitudes[a] for a in sorted(left)]
        members = joined
    return torch.tensor([row for own in members for row in own])


class RearrangedPruning(PruningSchedule):
    """``PruningSchedule`` of blocks ``(group, 1)`` whose channels are chosen when fit starts, by how alike they are."""

    def __init__(self, amount: float, group: int, **options: Any) -> None:
        super().__init__(amount, pattern="block", group=(group, 1), kernel=False, **options)
        self._orders: dict[str, Tensor] = {}

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        for path, target in self._targets.items():
            rows = target.weight.detach().movedim(target.axis, 0).flatten(1)
            self._orders[path] = alike(rows, self.choice.group[0])

    @override
    @torch.no_grad()
    def choose(self, progress: float) -> dict[str, Tensor]:
        targets = list(self._targets.values())
        orders = [self._orders[target.path] for target in targets]
        weights, kept = [], []
        for target, order in zip(targets, orders, strict=True):
            weights.append(target.weight.index_select(target.axis, order))
            kept.append(None if target.keep is None else target.keep.index_select(target.axis, order))
        how = [(self.choice.group, target.axis, False) for target in targets]
        found = keep_largest(weights, progress * float(self.amount or 0.0), kept, how)
        return {
            t.path: keep.index_select(t.axis, order.argsort())
            for t, order, keep in zip(targets, orders, found, strict=True)
        }
