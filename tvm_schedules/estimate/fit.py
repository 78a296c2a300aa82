"""Coefficients of a device, fitted to what its kernels took over many shapes and shares of zeros."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Fit", "Row", "fit", "held_out", "nonnegative"]

Array = npt.NDArray[np.float64]
_FEWEST = 6
"""Measurements of a group from which it has coefficients of its own."""
_LITTLE = 0.02
"""Share of a network's time: differences as small as that do not count much, for the network is what is estimated."""


@dataclass(frozen=True)
class Row:
    """A measurement.

    Attributes:
        network: What it was a part of.
        group: Of :func:`tvm_schedules.estimate.features.group`.
        numbers: Of :func:`tvm_schedules.estimate.features.features`.
        value: What it took, in any unit.
    """

    network: str
    group: str
    numbers: tuple[float, ...]
    value: float


@dataclass(frozen=True)
class Fit:
    """Coefficients by group.

    Attributes:
        groups: Coefficients of the groups, in the rows' unit; of those that were measured seldom, the kernel's times a
            factor.
        others: By kernel, of all its groups together; ``""`` for all kernels.
    """

    groups: dict[str, Array]
    others: dict[str, Array]

    def value(self, group: str, numbers: Sequence[float]) -> float:
        """What a step takes."""
        return float(np.dot(self.coefficients(group), numbers))

    def coefficients(self, group: str) -> Array:
        """Those of the group, else of its kernel, else of all kernels."""
        found = self.groups.get(group)
        if found is None:
            found = self.others.get(group.partition(" ")[0])
        return self.others[""] if found is None else found

    def knows(self, group: str) -> bool:
        """Whether the kernel was measured; of operators without a kernel, these very operators."""
        kernel = group.partition(" ")[0]
        return group in self.groups or (kernel != "fallback" and kernel in self.others)


def fit(rows: Sequence[Row], floor: float) -> Fit:
    """Coefficients, none negative, that make the relative errors small.

    Args:
        rows: Measurements.
        floor: Differences as small as this do not count much: what a clock cannot tell apart.
    """
    totals: dict[str, float] = defaultdict(float)
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        totals[row.network] += row.value
        groups[row.group].append(row)
    floors = {name: floor + _LITTLE * total for name, total in totals.items()}
    others = {}
    for name in {"", *(group.partition(" ")[0] for group in groups)}:
        parts = [found for group, found in groups.items() if name in ("", group.partition(" ")[0])]
        often = [found for found in parts if len(found) >= _FEWEST]
        others[name] = _solve([row for found in often or parts for row in found], floors)
    own = {}
    for name, found in groups.items():
        if len(found) >= _FEWEST:
            own[name] = _solve(found, floors)
        else:  # too few to tell coefficients apart, yet they say how much longer this takes than others of the kernel
            usual = others[name.partition(" ")[0]]
            own[name] = usual * float(np.median([row.value / max(1e-30, float(usual @ row.numbers)) for row in found]))
    return Fit(own, others)


def _solve(rows: Sequence[Row], floors: Mapping[str, float]) -> Array:
    values = np.array([row.value for row in rows])
    weights = 1 / (values + [floors[row.network] for row in rows])
    return nonnegative(np.array([row.numbers for row in rows]) * weights[:, None], values * weights)


def nonnegative(matrix: Array, wanted: Array) -> Array:
    """Least squares with coefficients of at least 0: the active sets of Lawson and Hanson (1974), chapter 23.

    Args:
        matrix: ``[measurements, numbers]``.
        wanted: ``[measurements]``.

    Returns:
        ``[numbers]``.

    >>> nonnegative(np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]), np.array([3.0, 5.0, 7.0])).round(6).tolist()
    [1.0, 2.0]
    >>> nonnegative(np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([2.0, 1.0])).round(6).tolist()
    [1.5, 0.0]
    """
    lengths = np.linalg.norm(matrix, axis=0)
    scaled = matrix / np.where(lengths > 0, lengths, 1.0)
    found, active = np.zeros(matrix.shape[1]), np.zeros(matrix.shape[1], bool)
    for _ in range(10 * matrix.shape[1]):
        gradient = np.where(active, -np.inf, scaled.T @ (wanted - scaled @ found))
        best = int(gradient.argmax())
        if gradient[best] <= 1e-9 * np.linalg.norm(wanted):
            break
        active[best] = True
        while True:
            made = np.zeros_like(found)
            made[active] = np.linalg.lstsq(scaled[:, active], wanted, rcond=None)[0]
            if (made[active] > 0).all():
                found = made
                break
            below = active & (made <= 0)
            found = found + (found[below] / (found[below] - made[below])).min() * (made - found)
            active &= found > 1e-12
            found = np.where(active, found, 0.0)
    return found / np.where(lengths > 0, lengths, 1.0)


def held_out(rows: Sequence[Row], floor: float) -> dict[str, tuple[float, float]]:
    """What networks took and what a fit to all the other networks says, by the network's name; empty of one network."""
    totals: dict[str, tuple[float, float]] = {}
    names = dict.fromkeys(row.network for row in rows)
    for name in names if len(names) > 1 else ():
        made = fit([row for row in rows if row.network != name], floor)
        own = [row for row in rows if row.network == name]
        totals[name] = (sum(row.value for row in own), sum(made.value(row.group, row.numbers) for row in own))
    return totals
