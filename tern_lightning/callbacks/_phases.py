"""When a run passes from float to ternary to frozen training."""

from __future__ import annotations

import math

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tern_lightning.callbacks._clock import RUN_START, Origin, Progress, progress, share_of
from tern_lightning.nn.layer_state import PHASES, Phase

Boundary = int | float | None


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


def phase_share(
    trainer: pl.Trainer, start: Boundary, freeze: Boundary, now: Progress, origin: Origin = RUN_START
) -> float:
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
    trainer: pl.Trainer,
    start: Boundary,
    freeze: Boundary,
    origin: Origin = RUN_START,
    between: str = "ternary training",
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


def never(trainer: pl.Trainer, boundary: Boundary, origin: Origin = RUN_START) -> bool:
    """Whether no batch of the run reaches a boundary, as far as the Trainer knows when training starts."""
    if boundary is None or boundary == 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return False
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else None
    if isinstance(boundary, int):
        return epochs is not None and boundary + origin.epoch >= epochs
    lasts = []
    if trainer.max_steps > 0:
        lasts.append(share_of(trainer.max_steps - 1 - origin.step, trainer.max_steps - origin.step))
    if epochs is not None:
        batches = trainer.num_training_batches
        before_last = 1 / batches if batches and math.isfinite(batches) else 1.0
        lasts.append(share_of(epochs - before_last - origin.epoch, epochs - origin.epoch))
    return bool(lasts) and all(last < boundary - 1e-9 for last in lasts)


def unreached(trainer: pl.Trainer, start: Boundary, freeze: Boundary, origin: Origin = RUN_START) -> list[str]:
    """What to say about boundaries that the run does not reach; a freeze at an epoch after its end is meant so."""
    asked = [("start", start), *([("freeze", freeze)] if isinstance(freeze, float) and freeze < 1 else [])]
    return [why_never(trainer, name, boundary) for name, boundary in asked if never(trainer, boundary, origin)]


def why_never(trainer: pl.Trainer, name: str, boundary: Boundary) -> str:
    """What to say about a boundary that is never reached."""
    text = f"{name}={boundary!r} is not reached in this run"
    if isinstance(boundary, float) and not math.isfinite(trainer.num_training_batches):
        return (
            f"{text}: its loader has no length, so that fractions of the run move from one epoch to the next alone. "
            "HINT: set max_steps, or give an epoch."
        )
    return f"{text} of {trainer.max_epochs} epochs and {trainer.num_training_batches} batches an epoch"


def _as_fraction(trainer: pl.Trainer, boundary: Boundary, origin: Origin = RUN_START) -> float | None:
    """A boundary as a fraction of what is left of a run from ``origin``, or None where that is not known yet."""
    if not isinstance(boundary, int):
        return float(boundary or 0.0)
    shares = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        shares.append(share_of(boundary, trainer.max_epochs - origin.epoch))
    elif trainer.max_steps > 0 and 0 < trainer.num_training_batches < math.inf:
        steps = boundary * trainer.num_training_batches / trainer.accumulate_grad_batches
        shares.append(share_of(steps, trainer.max_steps - origin.step))
    return max(shares) if shares else None


def describe(trainer: pl.Trainer, start: Boundary, freeze: Boundary, origin: Origin = RUN_START) -> str:
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
