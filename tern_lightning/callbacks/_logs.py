"""Logging beside the module's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

HOOKS = ("on_train_epoch_end", "on_validation_epoch_end")
"""The hooks in which callbacks log."""


def log_values(trainer: pl.Trainer, pl_module: pl.LightningModule, values: Mapping[str, float], **options: Any) -> None:
    """Log a callback's values, except those whose name the module logs itself, which Lightning would overwrite.

    Args:
        trainer: The Trainer, in one of :data:`HOOKS`.
        pl_module: The module through which values are logged.
        values: Values by name.
        options: Further arguments of the module's ``log_dict``.
    """
    taken = sorted(values.keys() & _logged_elsewhere(trainer))
    if taken:
        rank_zero_warn(f"the module logs {', '.join(taken)} itself: the value of tern_lightning is not logged")
    pl_module.log_dict({name: value for name, value in values.items() if name not in taken}, **options)


def _logged_elsewhere(trainer: pl.Trainer) -> set[str]:
    """Names that have been logged in other hooks of this epoch."""
    loop = trainer.fit_loop.epoch_loop
    results = [getattr(one, "_results", None) or {} for one in (loop, loop.val_loop)]
    return {metric.meta.name for found in results for metric in found.values() if metric.meta.fx not in HOOKS}
