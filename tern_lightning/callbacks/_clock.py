"""What time it is in a run, for a callback that may have joined it late."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tern_lightning.schedules import Schedule, Unit


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        epoch: Index of the epoch, >= 0.
        fraction: Share of the run that is done, in [0, 1]; None where the run has no end.
    """

    epoch: int
    fraction: float | None


@dataclass(frozen=True)
class Origin:
    """Where a callback joined a run: its epochs, steps and fractions of the run count from there.

    Attributes:
        epoch: Epochs of the run before, >= 0.
        step: Optimizer steps of the run before, >= 0.
    """

    epoch: int = 0
    step: int = 0


RUN_START = Origin()


class Clock:
    """What time it is in a run for one callback, which may have joined the run late.

    A run that is continued from a checkpoint of a run without the callback goes on in its middle. Schedules count from
    there: otherwise they would be over before they have begun.

    Attributes:
        origin: Where the callback joined the run.
        fresh: Whether the callback forgets an earlier run, between the start of fit and that of training.
    """

    def __init__(self) -> None:
        self.origin: Origin = RUN_START
        self.fresh: bool = False

    def enter(self, trainer: pl.Trainer, restored: bool, known: bool) -> None:
        """Find out, when fit starts, whether this is a new run for the callback.

        Args:
            trainer: The Trainer; it may not have restored its loops yet.
            restored: Whether a checkpoint had a state of the callback.
            known: Whether the callback has taken part in a run before.
        """
        self.fresh = not restored and (trainer.global_step == 0 or not known)
        if self.fresh:
            self.origin = RUN_START

    def join(self, trainer: pl.Trainer) -> bool:
        """Set the origin when training starts; True where the callback joins in the middle of a run."""
        late = self.fresh and (trainer.global_step > 0 or trainer.current_epoch > 0)
        if late:
            self.origin = Origin(trainer.current_epoch, trainer.global_step)
        self.fresh = False
        return late

    def progress(self, trainer: pl.Trainer, batch_idx: int = 0) -> Progress:
        """:func:`progress` from the origin."""
        return progress(trainer, batch_idx, self.origin)

    def value(self, schedule: Schedule, trainer: pl.Trainer, batch_idx: int = 0) -> float:
        """The number that a schedule gives before batch ``batch_idx`` of the Trainer's current epoch."""
        return schedule.value(position(trainer, schedule.unit, batch_idx, self.origin))

    def state(self) -> dict[str, int]:
        """The origin as plain values, for a checkpoint."""
        return {"epoch": self.origin.epoch, "step": self.origin.step}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a callback's state, of which :meth:`state` is the part ``origin``."""
        self.origin, self.fresh = Origin(**state.get("origin", {})), False


def progress(trainer: pl.Trainer, batch_idx: int = 0, origin: Origin = RUN_START) -> Progress:
    """Where the Trainer is before batch ``batch_idx`` of its current epoch, counted from ``origin``."""
    shares = []
    if trainer.max_steps > 0:
        shares.append(share_of(trainer.global_step - origin.step, trainer.max_steps - origin.step))
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        batches = trainer.num_training_batches
        inside = batch_idx / batches if batches and math.isfinite(batches) else 0.0
        shares.append(share_of(trainer.current_epoch + inside - origin.epoch, trainer.max_epochs - origin.epoch))
    return Progress(trainer.current_epoch - origin.epoch, min(max(shares), 1.0) if shares else None)


def share_of(done: float, whole: float) -> float:
    """Share of a run that is done; all of one that has no length."""
    return done / whole if whole > 0 else 1.0


def position(trainer: pl.Trainer, unit: Unit, batch_idx: int = 0, origin: Origin = RUN_START) -> float:
    """Where a Trainer is before batch ``batch_idx`` of its current epoch, in ``unit``.

    Args:
        trainer: The Trainer whose position is asked for.
        unit: Unit of the result.
        batch_idx: Index of the batch in the current epoch.
        origin: Where a callback joined the run, from where it counts.

    Raises:
        MisconfigurationException: ``unit`` is ``fraction`` and the run has no end.
    """
    if unit == "step":
        return float(trainer.global_step - origin.step)
    if unit == "epoch":
        batches = trainer.num_training_batches
        inside = batch_idx / batches if batches and math.isfinite(batches) else 0.0
        return trainer.current_epoch - origin.epoch + inside
    share = progress(trainer, batch_idx, origin).fraction
    if share is None:
        raise MisconfigurationException(
            "a schedule in fractions needs a run with an end: set max_epochs or max_steps, or choose the unit 'epoch' "
            "or 'step'"
        )
    return share
