"""When a run passes from float to ternary to frozen training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tern_lightning.layers import PHASES, Phase

Boundary = int | float | None


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        epoch: Index of the epoch, >= 0.
        fraction: Share of the run that is done, in [0, 1]; None where the run has no end.
    """

    epoch: int
    fraction: float | None


def check_boundary(name: str, value: Boundary) -> None:
    """Raise ValueError where a boundary is neither an epoch (int >= 0) nor a fraction of the run (float in [0, 1])."""
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        good = False
    elif value is None:
        good = name != "start"
    else:
        good = value >= 0 if isinstance(value, int) else 0 <= value <= 1
    if not good:
        allowed = "an epoch (int >= 0) or a fraction of the run (float in [0, 1])"
        raise ValueError(f"{name} must be {allowed}{'' if name == 'start' else ' or None'}, got {value!r}")


def progress(trainer: pl.Trainer, batch_idx: int = 0) -> Progress:
    """Where the Trainer is before batch ``batch_idx`` of its current epoch."""
    shares = []
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        batches = trainer.num_training_batches
        inside = batch_idx / batches if batches and math.isfinite(batches) else 0.0
        shares.append((trainer.current_epoch + inside) / trainer.max_epochs)
    return Progress(trainer.current_epoch, min(max(shares), 1.0) if shares else None)


def reached(boundary: Boundary, now: Progress) -> bool:
    """Whether a boundary has been reached; a fraction of a run without end never is."""
    if boundary is None:
        return False
    if isinstance(boundary, int):
        return now.epoch >= boundary
    return boundary == 0 or (now.fraction is not None and now.fraction >= boundary - 1e-9)


def next_phase(current: Phase, start: Boundary, freeze: Boundary, now: Progress) -> Phase:
    """The phase of the next batch. It never goes back, also when a resumed run is longer than the first one."""
    target: Phase = "frozen" if reached(freeze, now) else "ternary" if reached(start, now) else "float"
    return max(current, target, key=PHASES.index)


def phase_share(trainer: pl.Trainer, start: Boundary, freeze: Boundary, now: Progress) -> float:
    """How much of the ternary phase is over, in [0, 1].

    Raises:
        MisconfigurationException: The run has no end.
    """
    if now.fraction is None:
        raise MisconfigurationException(
            "a method that follows a schedule needs a run with an end: set max_epochs or max_steps"
        )
    begin, end = _as_fraction(trainer, start), 1.0 if freeze is None else _as_fraction(trainer, freeze)
    return min(max((now.fraction - begin) / (end - begin), 0.0), 1.0) if end > begin else 1.0


def _as_fraction(trainer: pl.Trainer, boundary: Boundary) -> float:
    """A boundary as a fraction of a run with an end."""
    if not isinstance(boundary, int):
        return float(boundary or 0.0)
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        return boundary / trainer.max_epochs
    return boundary * trainer.num_training_batches / trainer.accumulate_grad_batches / trainer.max_steps


def describe(trainer: pl.Trainer, start: Boundary, freeze: Boundary) -> str:
    """The phases in words, for example ``ternary from epoch 0, frozen from epoch 6``.

    Raises:
        MisconfigurationException: ``start`` is a fraction of a run without end.
    """
    endless = progress(trainer).fraction is None
    if endless and isinstance(start, float) and start > 0:
        raise MisconfigurationException(
            f"start={start} is a fraction of a run without end: set max_epochs or max_steps, or give start as an epoch"
        )
    if freeze is None or (endless and isinstance(freeze, float) and freeze > 0):
        return f"ternary from {_when(trainer, start)}, never frozen"
    return f"ternary from {_when(trainer, start)}, frozen from {_when(trainer, freeze)}"


def _when(trainer: pl.Trainer, boundary: Boundary) -> str:
    if isinstance(boundary, float) and boundary > 0:
        if trainer.max_steps > 0:
            return f"step {math.ceil(boundary * trainer.max_steps - 1e-9)}"
        return f"epoch {boundary * (trainer.max_epochs or 0):g}"
    return f"epoch {boundary:g}"
