"""The learning rate finder beside ternary training."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, LearningRateFinder


def finders(trainer: pl.Trainer) -> list[LearningRateFinder]:
    """The learning rate finders of a Trainer."""
    return [one for one in trainer.callbacks if isinstance(one, LearningRateFinder)]  # type: ignore[attr-defined]


def put_finders_last(trainer: pl.Trainer) -> None:
    """Let learning rate finders search after the other callbacks have prepared the network.

    Lightning lets them search first, when the network is still the float one, whose best learning rate is another.
    """
    found = finders(trainer)
    if found:
        everything = trainer.callbacks  # type: ignore[attr-defined]
        others = [one for one in everything if one not in found]
        last = [one for one in others if isinstance(one, Checkpoint)]
        # A new list: Lightning is going through the old one.
        trainer.callbacks = [one for one in others if one not in last] + found + last  # type: ignore[attr-defined]
