"""How a number changes over a run: pure functions of the position in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tvm_schedules.common.arguments import check_arguments

Shape = Literal["constant", "linear", "cubic", "cosine", "step"]
Unit = Literal["epoch", "step", "fraction"]


@check_arguments
@dataclass(frozen=True)
class Schedule:
    r"""A number that goes from ``initial`` at ``begin`` to ``final`` at ``end`` and then stays.

    With :math:`t` the share of the way from ``begin`` to ``end``, the value is :math:`i + (f - i) g(t)` where
    :math:`g` is 1 (constant), :math:`t` (linear), :math:`1 - (1 - t)^3` (cubic: To prune, or not to prune: exploring
    the efficacy of pruning for model compression (2017), equation 1), :math:`(1 - \cos \pi t) / 2` (cosine) or
    :math:`\lfloor n t \rfloor / n` (step, with n = ``steps``).

    Attributes:
        shape: One of ``constant``, ``linear``, ``cubic``, ``cosine``, ``step``.
        begin: Where it begins, >= 0, in ``unit``.
        end: Where it is complete, >= ``begin``, in ``unit``. A constant schedule is complete at ``begin``.
        unit: ``epoch`` (parts of epochs count), ``step`` (optimizer steps) or ``fraction`` (share of the run). They
            count from where the callback joined the run: its start, unless a run is continued with a callback more.
        initial: Value until ``begin``.
        final: Value from ``end`` on.
        steps: Jumps of shape ``step``, >= 1, the last one at ``end``.

    Raises:
        ValueError: A field is outside its range.

    Example:
        >>> ramp = Schedule("cubic", begin=0.0, end=0.5)
        >>> [ramp.value(position) for position in (0.0, 0.25, 0.5, 1.0)]
        [0.0, 0.875, 1.0, 1.0]
    """

    shape: Shape = "cubic"
    begin: float = 0.0
    end: float = 0.5
    unit: Unit = "fraction"
    initial: float = 0.0
    final: float = 1.0
    steps: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end < math.inf:
            raise ValueError(f"a schedule needs 0 <= begin <= end, got begin={self.begin}, end={self.end}")
        if self.unit == "fraction" and self.end > 1:
            raise ValueError(f"begin and end are fractions of the run and must be at most 1, got end={self.end}")
        if not (math.isfinite(self.initial) and math.isfinite(self.final)):
            raise ValueError(f"initial and final must be finite, got {self.initial} and {self.final}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def value(self, position: float) -> float:
        """The number at ``position`` in ``unit``; exactly ``initial`` before ``begin``, ``final`` when complete."""
        if not _reached(position, self.begin):
            return self.initial
        if self.complete(position):
            return self.final
        t = max(position - self.begin, 0.0) / (self.end - self.begin)
        share = {
            "linear": t,
            "cubic": 1 - (1 - t) ** 3,
            "cosine": (1 - math.cos(math.pi * t)) / 2,
            "step": math.floor(self.steps * t + 1e-9) / self.steps,
        }[self.shape]
        return self.initial + (self.final - self.initial) * share

    def complete(self, position: float) -> bool:
        """Whether the value no longer changes from ``position`` on."""
        return _reached(position, self.begin if self.shape == "constant" else self.end)


def _reached(position: float, boundary: float) -> bool:
    """Positions are quotients of counts: a boundary counts as reached when only rounding is missing."""
    return position >= boundary - 1e-9 * max(1.0, boundary)
