"""When a run passes from float to ternary to frozen training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tern_lightning.nn.ternary_layers import PHASES, Phase

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


@dataclass(frozen=True)
class Origin:
    """Where a callback joined a run: its epochs, steps and fractions of the run count from there.

    Attributes:
        epoch: Epochs of the run before, >= 0.
        step: Optimizer steps of the run before, >= 0.
    """

    epoch: int = 0
    step: int = 0


START = Origin()


class Clock:
    """What time it is in a run for one callback, which may have joined the run late.

    A run that is continued from a checkpoint of a run without the callback goes on in its middle. Schedules count from
    there: otherwise they would be over before they have begun.

    Attributes:
        origin: Where the callback joined the run.
        fresh: Whether the callback forgets an earlier run, between the start of fit and that of training.
    """

    def __init__(self) -> None:
        self.origin, self.fresh = START, False

    def enter(self, trainer: pl.Trainer, restored: bool, known: bool) -> None:
        """Find out, when fit starts, whether this is a new run for the callback.

        Args:
            trainer: The Trainer; it may not have restored its loops yet.
            restored: Whether a checkpoint had a state of the callback.
            known: Whether the callback has taken part in a run before.
        """
        self.fresh = not restored and (trainer.global_step == 0 or not known)
        if self.fresh:
            self.origin = START

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

    def state(self) -> dict[str, int]:
        """Plain values for a checkpoint."""
        return {"epoch": self.origin.epoch, "step": self.origin.step}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a callback's state, of which :meth:`state` is the part ``origin``."""
        self.origin, self.fresh = Origin(**state.get("origin", {})), False


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


def progress(trainer: pl.Trainer, batch_idx: int = 0, origin: Origin = START) -> Progress:
    """Where the Trainer is before batch ``batch_idx`` of its current epoch, counted from ``origin``."""
    shares = []
    if trainer.max_steps > 0:
        shares.append(_share(trainer.global_step - origin.step, trainer.max_steps - origin.step))
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        batches = trainer.num_training_batches
        inside = batch_idx / batches if batches and math.isfinite(batches) else 0.0
        shares.append(_share(trainer.current_epoch + inside - origin.epoch, trainer.max_epochs - origin.epoch))
    return Progress(trainer.current_epoch - origin.epoch, min(max(shares), 1.0) if shares else None)


def _share(done: float, whole: float) -> float:
    return done / whole if whole > 0 else 1.0


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


def phase_share(trainer: pl.Trainer, start: Boundary, freeze: Boundary, now: Progress, origin: Origin = START) -> float:
    """How much of the ternary phase is over, in [0, 1].

    Raises:
        MisconfigurationException: The run has no end.
    """
    if now.fraction is None:
        raise MisconfigurationException(
            "a method that follows a schedule needs a run with an end: set max_epochs or max_steps"
        )
    begin = _as_fraction(trainer, start, origin) or 0.0
    end = 1.0 if freeze is None else _as_fraction(trainer, freeze, origin) or 0.0
    return min(max((now.fraction - begin) / (end - begin), 0.0), 1.0) if end > begin else 1.0


def check_order(
    trainer: pl.Trainer, start: Boundary, freeze: Boundary, origin: Origin = START, between: str = "ternary training"
) -> None:
    """Raise ValueError where ``freeze`` comes before ``start`` or with it, so that nothing would happen ``between``.

    Both may be 0: codes are frozen from the beginning. What cannot be compared yet, because the Trainer does not know
    its number of batches, is not.
    """
    if freeze is None or trainer.fast_dev_run or (start == 0 and freeze == 0):  # type: ignore[attr-defined]
        return
    alike = isinstance(start, int) == isinstance(freeze, int) or 0 in (start, freeze)
    first, last = (
        (float(start or 0), float(freeze))
        if alike
        else (_as_fraction(trainer, start, origin), _as_fraction(trainer, freeze, origin))
    )
    if first is not None and last is not None and last <= first + 1e-9:
        when = [f"{name}={value!r} ({_when(trainer, value, origin)})" for name, value in _pair(start, freeze)]
        raise ValueError(
            f"{' is not before '.join(when)}: there would be no {between}. "
            "HINT: give freeze a later epoch or fraction of the run, or None for never."
        )


def _pair(start: Boundary, freeze: Boundary) -> list[tuple[str, Boundary]]:
    return [("start", start), ("freeze", freeze)]


def never(trainer: pl.Trainer, boundary: Boundary, origin: Origin = START) -> bool:
    """Whether no batch of the run reaches a boundary, as far as the Trainer knows when training starts."""
    if boundary is None or boundary == 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return False
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else None
    if isinstance(boundary, int):
        return epochs is not None and boundary + origin.epoch >= epochs
    lasts = []
    if trainer.max_steps > 0:
        lasts.append(_share(trainer.max_steps - 1 - origin.step, trainer.max_steps - origin.step))
    if epochs is not None:
        batches = trainer.num_training_batches
        before_last = 1 / batches if batches and math.isfinite(batches) else 1.0
        lasts.append(_share(epochs - before_last - origin.epoch, epochs - origin.epoch))
    return bool(lasts) and all(last < boundary - 1e-9 for last in lasts)


def why_never(trainer: pl.Trainer, name: str, boundary: Boundary) -> str:
    """What to say about a boundary that is never reached."""
    text = f"{name}={boundary!r} is not reached in this run"
    if isinstance(boundary, float) and not math.isfinite(trainer.num_training_batches):
        return (
            f"{text}: its loader has no length, so that fractions of the run move from one epoch to the next alone. "
            "HINT: set max_steps, or give an epoch."
        )
    return f"{text} of {trainer.max_epochs} epochs and {trainer.num_training_batches} batches an epoch"


def _as_fraction(trainer: pl.Trainer, boundary: Boundary, origin: Origin = START) -> float | None:
    """A boundary as a fraction of what is left of a run from ``origin``, or None where that is not known yet."""
    if not isinstance(boundary, int):
        return float(boundary or 0.0)
    shares = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        shares.append(_share(boundary, trainer.max_epochs - origin.epoch))
    elif trainer.max_steps > 0 and 0 < trainer.num_training_batches < math.inf:
        steps = boundary * trainer.num_training_batches / trainer.accumulate_grad_batches
        shares.append(_share(steps, trainer.max_steps - origin.step))
    return max(shares) if shares else None


def describe(trainer: pl.Trainer, start: Boundary, freeze: Boundary, origin: Origin = START) -> str:
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
        return f"ternary from {_when(trainer, start, origin)}, never frozen"
    return f"ternary from {_when(trainer, start, origin)}, frozen from {_when(trainer, freeze, origin)}"


def _when(trainer: pl.Trainer, boundary: Boundary, origin: Origin) -> str:
    if isinstance(boundary, float) and boundary > 0:
        if trainer.max_steps > 0:
            return f"step {origin.step + math.ceil(boundary * (trainer.max_steps - origin.step) - 1e-9)}"
        return f"epoch {origin.epoch + boundary * ((trainer.max_epochs or 0) - origin.epoch):g}"
    return f"epoch {origin.epoch + (boundary or 0):g}"
