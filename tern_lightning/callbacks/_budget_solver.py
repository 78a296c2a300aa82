"""The shares of zeros that meet budgets at the least damage: dual ascent over what layers cost and lose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_ROUNDS = 200
_HALVINGS = 40
_SLACK = 1e-9


def solve(damage: Sequence[Array], costs: Sequence[Sequence[Array]], multipliers: Array) -> tuple[list[int], Array]:
    r"""Choose one option for every layer.

    Minimizes :math:`\sum_l d_l(k_l)` subject to :math:`\sum_l c_{bl}(k_l) \le 1` for every budget :math:`b`. Given
    multipliers :math:`\lambda`, every layer has its own best option, the minimum of :math:`d_l + \sum_b \lambda_b
    c_{bl}`; the multipliers rise where a budget is exceeded and fall where it is not. The cheapest choice on the way
    that meets all budgets counts. What is lost against the best choice is at most the step of one layer, as long as
    damages are convex and costs concave or straight.

    Args:
        damage: ``[options]`` of every layer, >= 0.
        costs: Of every budget and every layer ``[options]``, in units of what the budget leaves for the layers.
        multipliers: ``[budgets]``, to begin with, > 0.

    Returns:
        The option of every layer, and the multipliers at the end. Where nothing meets all budgets, the options with
        the least of the costs together.
    """

    def choose(factors: Array) -> tuple[list[int], Array]:
        found = []
        for layer, lost in enumerate(damage):
            price = lost + sum(factor * own[layer] for factor, own in zip(factors, costs, strict=True))
            found.append(int(np.argmin(price)))
        return found, np.array([sum(c[k] for c, k in zip(own, found, strict=True)) for own in costs])

    def lost(found: Sequence[int]) -> float:
        return float(sum(own[k] for own, k in zip(damage, found, strict=True)))

    best: tuple[float, list[int], Array] | None = None

    def meets(factors: Array) -> bool:
        nonlocal best
        found, totals = choose(factors)
        met = bool((totals <= 1 + _SLACK).all())
        if met and (best is None or lost(found) < best[0]):
            best = lost(found), found, factors.copy()
        return met

    factors = multipliers.astype(np.float64).copy()
    for index in range(_ROUNDS):
        meets(factors)
        _, totals = choose(factors)
        pace = 4.0 / (1 + index / 20)
        factors = np.clip(factors * np.exp(pace * np.clip(totals - 1, -0.5, 0.5)), 1e-12, 1e12)
    # Options are few, so that ascent steps over the best multipliers: the last ones, larger by as little as will do.
    low, high = factors / 16, factors * 16
    while not meets(high) and high.max() < 1e15:
        low, high = high, high * 16
    for _ in range(_HALVINGS):
        middle = np.sqrt(low * high)
        low, high = (low, middle) if meets(middle) else (middle, high)
    return (choose(high)[0], multipliers) if best is None else (best[1], best[2])
